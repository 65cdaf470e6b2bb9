"""Saying less: only the largest values, or only their signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedcore.defences.base import Defence
from fedcore.defences.noise import NoiseSource
from fedcore.errors import ConfigError
from fedcore.types import TensorMap

__all__ = ["Sign", "TopK"]


@dataclass(frozen=True, kw_only=True)
class TopK(Defence):
    """Keep the values of largest magnitude and set the rest to zero (Aji and Heafield 2017).

    Of n values, max(1, round(fraction * n)) are kept; among equal ones, which is not promised.

    Attributes:
        fraction: kept, in (0, 1].
        scope: of the ranking: within each tensor, or over the whole update.
    """

    fraction: float = 0.1
    scope: Literal["tensor", "global"] = "tensor"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction must lie in (0, 1]; got {self.fraction}")

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Keep the largest; draws nothing."""
        del rng
        if self.scope == "tensor":
            return {name: self._largest(t) for name, t in tensors.items()}
        whole = self._largest(np.concatenate([t.reshape(-1) for t in tensors.values()]))
        ends = np.cumsum([t.size for t in tensors.values()])
        pieces = np.split(whole, ends[:-1])
        return {
            name: piece.reshape(t.shape)
            for (name, t), piece in zip(tensors.items(), pieces, strict=True)
        }

    def _largest(self, values: np.ndarray) -> np.ndarray:
        n_kept = max(1, round(self.fraction * values.size))
        if n_kept >= values.size:
            return values
        flat = values.reshape(-1)
        kept = np.argpartition(np.abs(flat), -n_kept)[-n_kept:]
        result = np.zeros_like(flat)
        result[kept] = flat[kept]
        return result.reshape(values.shape)


@dataclass(frozen=True, kw_only=True)
class Sign(Defence):
    """Only the signs, times one number per tensor.

    Attributes:
        scale: "mean" keeps each tensor's mean magnitude (scaled signSGD, Karimireddy et al. 2019,
            "Error Feedback Fixes SignSGD", Sec. 4), "unit" sends -1, 0 and 1 (signSGD, Bernstein
            et al. 2018).
    """

    scale: Literal["mean", "unit"] = "mean"

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Replace each value by its sign; draws nothing."""
        del rng
        return {name: np.asarray(np.sign(t) * self._factor(t)) for name, t in tensors.items()}

    def _factor(self, values: np.ndarray) -> np.ndarray:
        if self.scale == "unit" or values.size == 0:
            return np.ones((), dtype=values.dtype)
        return np.asarray(np.mean(np.abs(values), dtype=np.float64), dtype=values.dtype)
