"""Bounding how much one client can say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedcore.defences.base import Defence
from fedcore.defences.noise import NoiseSource
from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.types import TensorMap

__all__ = ["Clip", "global_norm"]


def global_norm(tensors: TensorMap) -> float:
    """Euclidean norm over the values of all tensors, summed in float64."""
    return math.sqrt(sum(float(np.sum(np.square(t, dtype=np.float64))) for t in tensors.values()))


@dataclass(frozen=True, kw_only=True)
class Clip(Defence):
    """Scale the update down to a global L2 norm of at most `max_norm`; shorter ones stay.

    The clipping step of McMahan et al. 2018, "Learning Differentially Private Recurrent Language
    Models", applied to a client's whole update. Alone it hides nothing from an attack that
    compares directions.

    Attributes:
        max_norm: the bound, in the update's own units.
    """

    max_norm: float = 1.0

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ConfigError(f"max_norm must be > 0; got {self.max_norm}")

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Scale down; draws nothing.

        Raises:
            UpdateError: NOT_FINITE, the norm is not a number, so that no bound can be kept.
        """
        del rng
        norm = global_norm(tensors)
        if not math.isfinite(norm):
            raise UpdateError(
                Refusal.NOT_FINITE, f"the update's norm is {norm}, so it cannot be clipped"
            )
        if norm <= self.max_norm:
            return tensors
        scale = np.float32(self.max_norm / norm)
        return {name: np.asarray(t * scale) for name, t in tensors.items()}
