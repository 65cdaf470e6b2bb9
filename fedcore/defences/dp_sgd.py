"""Differential privacy for single examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcore.defences.base import Defence
from fedcore.defences.noise import NoiseSource
from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.types import TensorMap

__all__ = ["DpSgd"]


@dataclass(frozen=True, kw_only=True)
class DpSgd(Defence):
    """DP-SGD of Abadi et al. 2016 (arXiv 1607.00133, Algorithm 1), for updates of one batch.

    Each example's gradient is clipped to `max_norm`; what is sent is
    (sum of the clipped gradients + N(0, (noise_multiplier * max_norm)^2)) / batch_size. The divisor
    is the option and not the number of examples at hand: one example then weighs max_norm /
    batch_size at most, also in a batch that came out smaller. What that is worth in epsilon and
    delta is `testbed.privacy`'s to say.

    Attributes:
        max_norm: bound on one example's gradient over all tensors, C in the paper.
        noise_multiplier: standard deviation of the noise on the sum, in units of max_norm.
        batch_size: that the plan prescribes.
    """

    max_norm: float
    noise_multiplier: float
    batch_size: int

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ConfigError(f"max_norm must be > 0; got {self.max_norm}")
        if not self.noise_multiplier >= 0:
            raise ConfigError(f"noise_multiplier must be >= 0; got {self.noise_multiplier}")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be >= 1; got {self.batch_size}")

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise on what is sent."""
        return self.noise_multiplier * self.max_norm / self.batch_size

    def example_gradients(self, gradients: TensorMap) -> TensorMap:
        """Clip each, and make their mean the sum over `batch_size`.

        Raises:
            UpdateError: NOT_FINITE, a norm is not a number, so that no bound can be kept.
        """
        norms = _norms(gradients)
        if not np.isfinite(norms).all():
            raise UpdateError(
                Refusal.NOT_FINITE, f"an example's gradient has norm {norms.max()}: cannot clip it"
            )
        kept = np.minimum(1.0, self.max_norm / np.maximum(norms, np.finfo(np.float64).tiny))
        factors = (kept * len(norms) / self.batch_size).astype(np.float32)
        return {name: g * factors.reshape(-1, *[1] * (g.ndim - 1)) for name, g in gradients.items()}

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Add the noise in float64, tensor after tensor, and round once."""
        if self.sigma == 0:
            return tensors
        return {
            name: np.asarray(t + self.sigma * rng.standard_normal(t.shape), dtype=t.dtype)
            for name, t in tensors.items()
        }


def _norms(gradients: TensorMap) -> np.ndarray:
    """Euclidean norm of each example over all tensors, float64 [example]."""
    squares = [
        np.square(g, dtype=np.float64).reshape(len(g), -1).sum(axis=1) for g in gradients.values()
    ]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)))
