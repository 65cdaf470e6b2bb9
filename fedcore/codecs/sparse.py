"""Index and value of the entries that matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from fedcore.codecs.base import Codec, check_part
from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.tensors import Schema

__all__ = ["Sparse"]


@dataclass(frozen=True, kw_only=True)
class Sparse(Codec):
    """Non-zero values as float32 with their flat index (C order, ascending) as uint32.

    With `fraction` 1 nothing is lost, so that it fits behind the defence "topk"; below 1 only the
    largest magnitudes of each tensor are sent, and the error is at most the smallest one kept.
    8 bytes per value sent.

    Attributes:
        fraction: of each tensor's values that are sent at most (at least one), in (0, 1].
    """

    name: ClassVar[str] = "sparse"
    suffixes: ClassVar[tuple[str, ...]] = ("", ":index")

    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction must lie in (0, 1]; got {self.fraction}")

    def split(self, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """The chosen values and their places. NaN and infinity count as largest, and are kept."""
        flat = values.reshape(-1)
        index = np.flatnonzero(flat)
        n_kept = self._n_kept(flat.size)
        if index.size > n_kept:
            index = np.sort(np.argpartition(np.abs(flat), -n_kept)[-n_kept:])
        return {"": flat[index], ":index": index.astype(np.uint32)}

    def join(
        self, name: str, parts: Mapping[str, np.ndarray], *, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Put the values in their places; the rest is zero."""
        values, index = parts[""], parts[":index"]
        size = prod(shape)
        n_sent = min(values.size, size)
        check_part(name, values, dtype=np.float32, shape=(n_sent,))
        check_part(f"{name}:index", index, dtype=np.uint32, shape=(n_sent,))
        if n_sent and index[-1] >= size:
            raise UpdateError(
                Refusal.WRONG_SHAPE, f"{name}:index: {index[-1]} lies outside {size} values"
            )
        if not (index[1:] > index[:-1]).all():
            raise UpdateError(
                Refusal.WRONG_SHAPE, f"{name}:index: not ascending, so that a value came twice"
            )
        dense = np.zeros(size, dtype=np.float32)
        dense[index] = values
        return dense.reshape(shape)

    def error_bound(self, values: np.ndarray) -> float:
        """The largest magnitude that is left out is not above the smallest one kept."""
        n_kept = self._n_kept(values.size)
        if np.count_nonzero(values) <= n_kept:
            return 0.0
        return float(np.partition(np.abs(values), -n_kept, axis=None)[-n_kept])

    def payload_bytes(self, schema: Schema) -> None:
        """It depends on the number of zeros."""
        return

    def _n_kept(self, size: int) -> int:
        return max(1, round(self.fraction * size))
