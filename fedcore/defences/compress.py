"""Saying less: only the largest values, their signs, a few levels, or nothing of some tensors."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np

from fedcore.defences.base import Defence
from fedcore.defences.noise import NoiseSource
from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.types import TensorMap

__all__ = ["Qsgd", "Sign", "TopK", "Withhold"]

_MAX_LEVELS = 1 << 15  # beyond it float32 has hardly finer steps of its own


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


@dataclass(frozen=True, kw_only=True)
class Qsgd(Defence):
    """Round every value to one of its two neighbouring levels, at random and without bias.

    QSGD of Alistarh et al. 2017 (arXiv 1610.02132) with the largest magnitude of each tensor in
    the place of its norm: value = step * q, step = max |value| / levels. The draws are the
    client's secret ones, which a codec does not have: codec "int4" behind 7 levels and "int8"
    behind 127 lose nothing more.

    Attributes:
        levels: above zero; as many lie below.
    """

    levels: int = 7

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= _MAX_LEVELS:
            raise ConfigError(f"levels must lie in [1, {_MAX_LEVELS}]; got {self.levels}")

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Round, tensor after tensor.

        Raises:
            UpdateError: NOT_FINITE, a tensor has no largest magnitude.
        """
        return {name: self._rounded(name, t, rng) for name, t in tensors.items()}

    def _rounded(self, name: str, values: np.ndarray, rng: NoiseSource) -> np.ndarray:
        largest = float(np.max(np.abs(values), initial=0.0))
        if not np.isfinite(largest):
            raise UpdateError(Refusal.NOT_FINITE, f"{name}: not every value is finite")
        step = np.float32(largest / self.levels)
        if step < np.finfo(np.float32).tiny:  # all zero, or so small that steps lose bits
            return values
        q = np.floor(values / np.float64(step) + rng.random(values.shape))
        return np.asarray(np.clip(q, -self.levels, self.levels) * step, dtype=values.dtype)


@dataclass(frozen=True, kw_only=True)
class Withhold(Defence):
    """Send zeros for some tensors, so that nobody trains or reads them.

    Without the first layer's bias there is no ratio of weight to bias gradient, which gives a
    fully connected layer's input in closed form. A model without that bias does the same: one
    that keeps its initial value.

    Attributes:
        names: of tensors; "*" stands for any characters ("*.bias").
    """

    names: tuple[str, ...]

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Set to zero; draws nothing.

        Raises:
            ConfigError: a name fits no tensor, so that nothing would be withheld.
        """
        del rng
        for pattern in self.names:
            if not any(fnmatchcase(name, pattern) for name in tensors):
                raise ConfigError(
                    f"defence 'withhold': no tensor is called {pattern!r}; there are "
                    f"{', '.join(tensors)}"
                )
        return {
            name: np.zeros_like(t) if any(fnmatchcase(name, p) for p in self.names) else t
            for name, t in tensors.items()
        }
