"""What codecs share: tensors as parts of one safetensors blob, and the gate for hostile bytes.

A codec turns each tensor into one or more named parts ("fc.weight", "fc.weight:scale"). Decoding
trusts nothing: names, dtypes and shapes of all parts are compared with the schema before a value
is used, and whatever does not fit ends in an UpdateError with its Refusal. Values are not judged
here: that NaN or infinity never reaches a model is the business of the aggregator's admission.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.plan import Choice
from fedcore.registry import Registry
from fedcore.strict import build
from fedcore.tensors import Schema, pack, unpack
from fedcore.types import TensorMap

__all__ = ["CODECS", "Codec", "check_part", "codec_of", "count", "refuse_to_send"]


@dataclass(frozen=True, kw_only=True)
class Codec(ABC):
    """A codec; the fields of a subclass are its options.

    Attributes:
        name: as registered; travels in the note, and decoding refuses another.
        suffixes: of the parts of one tensor; "" is the part under the tensor's own name.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ("",)

    def encode(self, tensors: TensorMap, *, note: Mapping[str, Any]) -> bytes:
        """One blob of all tensors; equal arguments give equal bytes.

        Args:
            tensors: float32 by parameter name.
            note: plain values that travel inside the blob; "codec" is set to this codec's name.

        Raises:
            UpdateError: NOT_FINITE, a value cannot be carried by this codec.
            ConfigError: a tensor's name holds ":", which separates parts.
        """
        parts: dict[str, np.ndarray] = {}
        for name, tensor in tensors.items():
            if ":" in name:
                raise ConfigError(f"parameter {name!r} holds ':', which codecs keep for themselves")
            values = np.asarray(tensor, dtype=np.float32)
            parts |= {name + suffix: part for suffix, part in self.split(name, values).items()}
        return pack(parts, note={**note, "codec": self.name})

    def decode(
        self, blob: bytes | memoryview, *, schema: Schema
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The tensors, float32 in the schema's order and shapes, and the note of a stranger's blob.

        Memory stays within the blob's and the schema's size, whatever the blob claims.

        Raises:
            UpdateError: NOT_SAFETENSORS, WRONG_CODEC, MISSING_TENSOR, EXTRA_TENSOR, WRONG_DTYPE,
                WRONG_SHAPE, or NOT_FINITE for a scale.
        """
        parts, note = unpack(blob)
        if note.get("codec") != self.name:
            raise UpdateError(
                Refusal.WRONG_CODEC, f"made by {note.get('codec')!r:.60}, expected {self.name!r}"
            )
        self._check_names(parts, schema)
        tensors = {
            name: self.join(name, {s: parts[name + s] for s in self.suffixes}, shape=shape)
            for name, shape in schema.items()
        }
        return tensors, note

    @abstractmethod
    def split(self, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """The parts of one float32 tensor, by suffix.

        Raises:
            UpdateError: NOT_FINITE, a value cannot be carried.
        """

    @abstractmethod
    def join(
        self, name: str, parts: Mapping[str, np.ndarray], *, shape: tuple[int, ...]
    ) -> np.ndarray:
        """One float32 tensor of exactly that shape, from parts that a stranger may have made.

        Raises:
            UpdateError: dtype, shape or content of a part does not fit.
        """

    @abstractmethod
    def error_bound(self, values: np.ndarray) -> float:
        """Largest absolute difference that a round trip of this finite tensor may make."""

    @abstractmethod
    def payload_bytes(self, schema: Schema) -> int | None:
        """Exact size of the blob without its header; None where it depends on the values."""

    def _check_names(self, parts: TensorMap, schema: Schema) -> None:
        expected = {name + suffix for name in schema for suffix in self.suffixes}
        if missing := sorted(expected - parts.keys()):
            raise UpdateError(Refusal.MISSING_TENSOR, f"the plan's {_some(missing)} did not come")
        if extra := sorted(parts.keys() - expected):
            raise UpdateError(Refusal.EXTRA_TENSOR, f"the plan knows no {_some(extra)}")


def check_part(name: str, part: np.ndarray, *, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Return the part if it has exactly that dtype and shape; nothing is broadcast or cast.

    Raises:
        UpdateError: WRONG_DTYPE or WRONG_SHAPE.
    """
    if part.dtype != dtype:
        raise UpdateError(
            Refusal.WRONG_DTYPE, f"{name}: {part.dtype}, expected {np.dtype(dtype).name}"
        )
    if part.shape != tuple(shape):
        raise UpdateError(
            Refusal.WRONG_SHAPE, f"{name}: shape {part.shape}, expected {tuple(shape)}"
        )
    return part


def count(schema: Schema) -> int:
    """Number of values in all tensors of a schema."""
    return sum(prod(shape) for shape in schema.values())


def refuse_to_send(name: str, values: np.ndarray, *, codec: str, largest: float) -> UpdateError:
    """The error for a tensor with values that a codec cannot carry."""
    n_bad = np.count_nonzero(~(np.abs(values) <= largest))
    return UpdateError(
        Refusal.NOT_FINITE,
        f"{name}: {n_bad} values are not finite or beyond the {largest:.6g} that codec {codec!r} "
        "carries; clip the update or choose codec 'f32'",
    )


def _some(names: list[str]) -> str:
    """The first few names, cut to a line: a stranger chose them."""
    shown = ", ".join(f"{name!r:.60}" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


CODECS: Registry[type[Codec]] = Registry(
    "codec",
    {
        "bf16": "fedcore.codecs.floats:BFloat16",
        "f16": "fedcore.codecs.floats:Float16",
        "f32": "fedcore.codecs.floats:Float32",
        "int4": "fedcore.codecs.int4:Int4",
        "int8": "fedcore.codecs.int8:Int8",
        "sparse": "fedcore.codecs.sparse:Sparse",
    },
)


def codec_of(choice: Choice) -> Codec:
    """The codec that a plan names.

    Raises:
        ConfigError: unknown name or option.
    """
    return build(CODECS, choice)
