"""Linear quantisation to 4 bits with one scale per tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from fedcore.codecs.base import Codec, check_part, refuse_to_send
from fedcore.codecs.int8 import LARGEST, check_step, step_of
from fedcore.tensors import Schema

__all__ = ["Int4"]

_N_STEPS = 7
_MIDDLE = 8  # added to a step, so that it is never negative


@dataclass(frozen=True, kw_only=True)
class Int4(Codec):
    """Symmetric: value = scale * q with q in [-7, 7] and scale = max |value| / 7.

    Rounded to nearest even; the low half of a byte holds the first of two values. Error at most
    half a step, plus less than a thousandth of a step for float32's own rounding. Half a byte per
    value (an odd one out takes a whole byte) and 4 bytes per tensor.
    """

    name: ClassVar[str] = "int4"
    suffixes: ClassVar[tuple[str, ...]] = ("", ":scale")

    def split(self, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """Quantise; two values share a byte."""
        if not (np.abs(values) <= LARGEST).all():
            raise refuse_to_send(name, values, codec=self.name, largest=LARGEST)
        scale = np.array(step_of(values, n_steps=_N_STEPS), dtype=np.float32)
        steps = np.full(2 * _n_bytes(values.size), _MIDDLE, dtype=np.uint8)
        steps[: values.size] = np.rint(values.reshape(-1) / scale) + _MIDDLE
        return {"": steps[::2] | (steps[1::2] << 4), ":scale": scale}

    def join(
        self, name: str, parts: Mapping[str, np.ndarray], *, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Unpack and scale back, after the scale was found to be a positive finite number."""
        size = prod(shape)
        packed = check_part(name, parts[""], dtype=np.uint8, shape=(_n_bytes(size),))
        scale = check_step(f"{name}:scale", parts[":scale"])
        steps = np.stack([packed & 0xF, packed >> 4], axis=1).reshape(-1)[:size]
        with np.errstate(over="ignore"):  # an infinite product is for admission to refuse
            values = (steps.astype(np.float32) - _MIDDLE) * scale
        return np.asarray(values.reshape(shape))

    def error_bound(self, values: np.ndarray) -> float:
        """Half a step, and a thousandth for float32."""
        return 0.501 * step_of(values, n_steps=_N_STEPS)

    def payload_bytes(self, schema: Schema) -> int:
        """Half a byte per value, rounded up in each tensor, and 4 per tensor."""
        return sum(_n_bytes(prod(shape)) + 4 for shape in schema.values())


def _n_bytes(n_values: int) -> int:
    return (n_values + 1) // 2
