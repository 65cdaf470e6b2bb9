"""Tensors by name <-> one safetensors blob. No pickle; a hostile blob ends in one named refusal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from fedcore.errors import Refusal, UpdateError
from fedcore.strict import canonical_json
from fedcore.types import TensorMap

__all__ = [
    "Schema",
    "have_equal_values",
    "pack",
    "pack_weights",
    "schema_of",
    "unpack",
    "unpack_weights",
]

Schema = Mapping[str, tuple[int, ...]]
"""Shapes by parameter name."""

MAX_HEADER_BYTES = 1 << 20
_MAX_DIMENSIONS = 32
_MAX_VALUES = 1 << 40
_NOTE_KEY = "leakwatt"  # one key only: the library does not promise an order among several
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}


def pack(tensors: TensorMap, *, note: Mapping[str, Any]) -> bytes:
    """One safetensors blob; equal arguments give equal bytes.

    Args:
        tensors: contiguous or not, of dtype float32, float16, int8, int32, uint16 or uint32.
        note: plain values that travel inside the blob, and so under its SHA-256.
    """
    contiguous = {name: np.asarray(t, order="C") for name, t in tensors.items()}  # keeps shape ()
    blob: bytes = safetensors.numpy.save(
        contiguous, metadata={_NOTE_KEY: canonical_json(note).decode()}
    )
    return blob


def unpack(blob: bytes | memoryview) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors by name and the note of a blob that a stranger may have made.

    The tensors are read-only views into the blob: the library's own reader copies, which costs a
    100 MB update half as much time again as its transfer.

    Raises:
        UpdateError: not safetensors, a header that lies or is above 1 MiB, no readable note, or a
            dtype that no codec uses.
    """
    view = memoryview(blob)
    header, data = _split(view)
    note = _read_note(header.pop("__metadata__", None))
    tensors: dict[str, np.ndarray] = {}
    ends: list[tuple[int, int]] = []
    for name in sorted(header):
        dtype, shape, begin, end = _read_entry(name, header[name])
        if end > len(data):
            raise _not_safetensors(f"{name!r:.60} ends at byte {end} of {len(data)}")
        tensors[name] = np.frombuffer(data[begin:end], dtype=dtype).reshape(shape)
        ends.append((begin, end))
    _check_tiling(sorted(ends), n_bytes=len(data))
    return tensors, note


def pack_weights(tensors: TensorMap) -> bytes:
    """Global weights as an artefact: float32 safetensors."""
    return pack(
        {name: np.asarray(t, dtype=np.float32) for name, t in tensors.items()},
        note={"format": "weights-1"},
    )


def unpack_weights(blob: bytes | memoryview) -> dict[str, np.ndarray]:
    """Read `pack_weights` back: float32 by name, sorted by name."""
    return unpack(blob)[0]


def have_equal_values(one: TensorMap, other: TensorMap) -> bool:
    """Whether maps with the same names hold the same numbers; quick where they are one object."""
    return one is other or all(np.array_equal(one[name], other[name]) for name in one)


def schema_of(tensors: TensorMap) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: tuple(t.shape) for name, t in tensors.items()}


def _split(blob: memoryview) -> tuple[dict[str, Any], memoryview]:
    """The JSON header and the data behind it; sizes are checked before anything is read."""
    if len(blob) < 8:
        raise _not_safetensors(f"{len(blob)} bytes hold no header")
    n_bytes = int.from_bytes(blob[:8], "little")
    if n_bytes > min(MAX_HEADER_BYTES, len(blob) - 8):
        raise _not_safetensors(f"the header claims {n_bytes} bytes of a {len(blob)}-byte blob")
    try:
        header = json.loads(bytes(blob[8 : 8 + n_bytes]))
    except (ValueError, RecursionError) as error:
        raise _not_safetensors(f"the header is not JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise _not_safetensors("the header is not a table")
    return header, blob[8 + n_bytes :]


def _read_note(metadata: Any) -> dict[str, Any]:
    """What `pack` put under our key."""
    try:
        note = json.loads(metadata[_NOTE_KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_safetensors(f"no Leakwatt note in it ({type(error).__name__})") from error
    if not isinstance(note, dict):
        raise _not_safetensors("the note is not a table")
    return note


def _read_entry(name: str, entry: Any) -> tuple[np.dtype[Any], list[int], int, int]:
    """One tensor's dtype, shape and place, once they agree with each other."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _not_safetensors(f"{name!r:.60} has no dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise _not_safetensors(f"{name!r:.60} has a shape or offsets that are no sizes")
    if len(shape) > _MAX_DIMENSIONS or math.prod(size or 1 for size in shape) > _MAX_VALUES:
        raise _not_safetensors(f"{name!r:.60} has a shape beyond any model's")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise UpdateError(Refusal.WRONG_DTYPE, f"{name!r:.60}: {entry['dtype']!r:.20} is not used")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _not_safetensors(f"{name!r:.60}: {end - begin} bytes do not hold shape {shape}")
    return dtype, shape, begin, end


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_tiling(places: list[tuple[int, int]], *, n_bytes: int) -> None:
    """Tensors lie side by side and fill the data: nothing overlaps, nothing is hidden."""
    at = 0
    for begin, end in places:
        if begin != at:
            raise _not_safetensors(f"a hole or an overlap at byte {min(at, begin)} of the data")
        at = end
    if at != n_bytes:
        raise _not_safetensors(f"{n_bytes - at} bytes behind the last tensor")


def _not_safetensors(message: str) -> UpdateError:
    return UpdateError(Refusal.NOT_SAFETENSORS, message)
