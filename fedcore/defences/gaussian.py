"""Noise on the update."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcore.defences.base import Defence
from fedcore.defences.noise import NoiseSource
from fedcore.errors import ConfigError
from fedcore.types import TensorMap

__all__ = ["Gaussian"]


@dataclass(frozen=True, kw_only=True)
class Gaussian(Defence):
    """Add independent N(0, std^2) to every value.

    Give either `std`, or `noise_multiplier` and `max_norm`: then std is their product, which after
    the defence "clip" with the same `max_norm` is the Gaussian mechanism on a client's update
    (McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models").

    Attributes:
        std: standard deviation in the update's own units.
        noise_multiplier: std per unit of the clipping bound.
        max_norm: the clipping bound.
    """

    std: float | None = None
    noise_multiplier: float | None = None
    max_norm: float | None = None

    def __post_init__(self) -> None:
        relative = (self.noise_multiplier, self.max_norm)
        if sum(v is not None for v in relative) != (2 if self.std is None else 0):
            raise ConfigError("give either std, or noise_multiplier and max_norm")
        for name in ("std", "noise_multiplier", "max_norm"):
            if (getattr(self, name) or 0.0) < 0:
                raise ConfigError(f"{name} must be >= 0; got {getattr(self, name)}")

    @property
    def sigma(self) -> float:
        """The standard deviation that is used."""
        if self.std is not None:
            return self.std
        return (self.noise_multiplier or 0.0) * (self.max_norm or 0.0)

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Add the noise in float64, tensor after tensor, and round once."""
        if self.sigma == 0:
            return tensors
        return {
            name: np.asarray(t + self.sigma * rng.standard_normal(t.shape), dtype=t.dtype)
            for name, t in tensors.items()
        }
