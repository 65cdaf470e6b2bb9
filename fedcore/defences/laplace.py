"""Noise with heavier tails than a Gaussian's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcore.defences.base import Defence
from fedcore.defences.noise import NoiseSource
from fedcore.errors import ConfigError
from fedcore.types import TensorMap

__all__ = ["Laplace"]


@dataclass(frozen=True, kw_only=True)
class Laplace(Defence):
    """Add independent Laplace noise to every value (Dwork et al. 2006, doi:10.1007/11681878_14).

    Attributes:
        scale: mean magnitude of the noise in the update's own units; its standard deviation is
            sqrt(2) times that.
    """

    scale: float

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ConfigError(f"scale must be >= 0; got {self.scale}")

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Add the noise in float64, tensor after tensor, and round once."""
        if self.scale == 0:
            return tensors
        return {
            name: np.asarray(t + self.scale * _unit_laplace(t.shape, rng), dtype=t.dtype)
            for name, t in tensors.items()
        }


def _unit_laplace(shape: tuple[int, ...], rng: NoiseSource) -> np.ndarray:
    """The difference of two exponential draws of mean 1; uniform draws never are 1."""
    one, other = (-np.log1p(-rng.random(shape)) for _ in range(2))
    return np.asarray(one - other)
