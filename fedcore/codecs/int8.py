"""Linear quantisation to 8 bits with one scale per tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedcore.codecs.base import Codec, check_part, count, refuse_to_send
from fedcore.errors import Refusal, UpdateError
from fedcore.tensors import Schema

__all__ = ["LARGEST", "Int8", "check_step", "step_of"]

LARGEST = 3.4e38  # just below float32's end, so that 127 rounded steps never overflow
_SMALLEST_SCALE = float(
    np.finfo(np.float32).tiny
)  # smaller ones lose bits; also serves the zero tensor


@dataclass(frozen=True, kw_only=True)
class Int8(Codec):
    """Symmetric: value = scale * q with q in [-127, 127] and scale = max |value| / 127.

    Rounded to nearest even. Error at most half a step, plus less than a thousandth of a step for
    float32's own rounding. 1 byte per value and 4 per tensor.
    """

    name: ClassVar[str] = "int8"
    suffixes: ClassVar[tuple[str, ...]] = ("", ":scale")

    def split(self, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """Quantise; the scale is a tensor without axes."""
        if not (np.abs(values) <= LARGEST).all():
            raise refuse_to_send(name, values, codec=self.name, largest=LARGEST)
        scale = np.array(step_of(values, n_steps=127), dtype=np.float32)
        return {"": np.rint(values / scale).astype(np.int8), ":scale": scale}

    def join(
        self, name: str, parts: Mapping[str, np.ndarray], *, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Scale back, after the scale was found to be a positive finite number."""
        steps = check_part(name, parts[""], dtype=np.int8, shape=shape)
        scale = check_step(f"{name}:scale", parts[":scale"])
        with np.errstate(over="ignore"):  # an infinite product is for admission to refuse
            return np.asarray(np.multiply(steps, scale, dtype=np.float32))

    def error_bound(self, values: np.ndarray) -> float:
        """Half a step, and a thousandth for float32."""
        return 0.501 * step_of(values, n_steps=127)

    def payload_bytes(self, schema: Schema) -> int:
        """1 byte per value, 4 per tensor."""
        return count(schema) + 4 * len(schema)


def step_of(values: np.ndarray, *, n_steps: int) -> float:
    """The step by which `n_steps` reach the largest magnitude; a positive float32."""
    largest = float(np.max(np.abs(values), initial=0.0))
    return float(np.float32(max(largest / n_steps, _SMALLEST_SCALE)))


def check_step(name: str, part: np.ndarray) -> np.ndarray:
    """Return the part if it is one positive finite float32.

    Raises:
        UpdateError: WRONG_DTYPE, WRONG_SHAPE or NOT_FINITE.
    """
    step = check_part(name, part, dtype=np.float32, shape=())
    if not (step > 0 and np.isfinite(step)):
        raise UpdateError(Refusal.NOT_FINITE, f"{name}: {step}, expected a positive finite step")
    return step
