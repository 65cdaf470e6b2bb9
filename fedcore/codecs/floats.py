"""Floating-point codecs: float32 as it is, IEEE half precision, and bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedcore.codecs.base import Codec, check_part, count, refuse_to_send
from fedcore.tensors import Schema

__all__ = ["BFloat16", "Float16", "Float32"]

_LARGEST_F16 = 65504.0
_LARGEST_BF16 = (2 - 2**-7) * 2.0**127


@dataclass(frozen=True, kw_only=True)
class Float32(Codec):
    """Float32 bit by bit, NaN and infinity included. Error 0; 4 bytes per value."""

    name: ClassVar[str] = "f32"

    def split(self, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """The tensor itself."""
        return {"": values}

    def join(
        self, name: str, parts: Mapping[str, np.ndarray], *, shape: tuple[int, ...]
    ) -> np.ndarray:
        """The tensor itself, without a copy."""
        return check_part(name, parts[""], dtype=np.float32, shape=shape)

    def error_bound(self, values: np.ndarray) -> float:
        """Nothing is lost."""
        return 0.0

    def payload_bytes(self, schema: Schema) -> int:
        """4 bytes per value."""
        return 4 * count(schema)


@dataclass(frozen=True, kw_only=True)
class Float16(Codec):
    """IEEE 754 binary16, rounded to nearest even; 2 bytes per value.

    Error at most 2^-11 of the value, or 2^-25 below 2^-14, where half precision is subnormal.
    """

    name: ClassVar[str] = "f16"

    def split(self, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """Round; an overflow is an error, not an infinity."""
        with np.errstate(over="ignore"):  # found right below, with the tensor's name
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise refuse_to_send(name, values, codec=self.name, largest=_LARGEST_F16)
        return {"": half}

    def join(
        self, name: str, parts: Mapping[str, np.ndarray], *, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Widen, which is exact."""
        return check_part(name, parts[""], dtype=np.float16, shape=shape).astype(np.float32)

    def error_bound(self, values: np.ndarray) -> float:
        """Half a unit in the last place of the largest value."""
        return max(2.0**-11 * _largest(values), 2.0**-25)

    def payload_bytes(self, schema: Schema) -> int:
        """2 bytes per value."""
        return 2 * count(schema)


@dataclass(frozen=True, kw_only=True)
class BFloat16(Codec):
    """The upper half of a float32, rounded to nearest even; 2 bytes per value.

    numpy has no bfloat16, so that the bit pattern travels as uint16. Error at most 2^-8 of the
    value, or 2^-134 where bfloat16 is subnormal.
    """

    name: ClassVar[str] = "bf16"

    def split(self, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """Round in integer arithmetic; an overflow is an error, not an infinity."""
        if not (np.abs(values) <= _LARGEST_BF16).all():
            raise refuse_to_send(name, values, codec=self.name, largest=_LARGEST_BF16)
        bits = np.ascontiguousarray(values).view(np.uint32)
        to_even = ((bits >> 16) & 1) + np.uint32(0x7FFF)
        return {"": ((bits + to_even) >> 16).astype(np.uint16).reshape(values.shape)}

    def join(
        self, name: str, parts: Mapping[str, np.ndarray], *, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Append 16 zero bits, which is exact."""
        bits = check_part(name, parts[""], dtype=np.uint16, shape=shape).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)

    def error_bound(self, values: np.ndarray) -> float:
        """Half a unit in the last place of the largest value."""
        return max(2.0**-8 * _largest(values), 2.0**-134)

    def payload_bytes(self, schema: Schema) -> int:
        """2 bytes per value."""
        return 2 * count(schema)


def _largest(values: np.ndarray) -> float:
    return float(np.max(np.abs(values), initial=0.0))
