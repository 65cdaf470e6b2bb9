"""Strategies built on the weighted mean: one update in memory at a time, whatever their number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregator.strategies.base import RoundUpdates, Strategy
from fedcore.errors import ConfigError
from fedcore.types import TensorMap

__all__ = ["FedAdam", "FedAvg", "FedProx", "FedSgd"]

_BLOCK = 1 << 16  # values; sum and scratch buffer stay in the cache


@dataclass(frozen=True, kw_only=True)
class FedAvg(Strategy):
    """Mean of the updates, weighted by examples (McMahan et al. 2017, Algorithm 1)."""

    def fold(self, updates: RoundUpdates) -> dict[str, np.ndarray]:
        """The weighted mean, summed in float64 in client-id order."""
        total = sum(updates.n_examples)
        mean = {name: np.zeros(shape) for name, shape in updates.schema.items()}
        for n_examples, direction in zip(updates.n_examples, updates.directions(), strict=True):
            for name, tensor in direction.items():
                _add_scaled(mean[name].reshape(-1), tensor.reshape(-1), factor=n_examples / total)
        return mean


@dataclass(frozen=True, kw_only=True)
class FedSgd(FedAvg):
    """Gradient descent on the server along the mean gradient (McMahan et al. 2017, section 2)."""

    learning_rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    """FedAvg on the server; the pull to the global weights is the client's (Li et al. 2020).

    Its strength is `training.proximal_mu`.
    """


@dataclass(frozen=True, kw_only=True)
class FedAdam(FedAvg):
    """Adam on the server over the mean update (Reddi et al. 2021, Algorithm 2).

    Attributes:
        learning_rate: their eta.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        tau: adaptivity; added to the root of the second moment, which starts at tau^2.
    """

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1); got {getattr(self, name)}")
        if not self.tau > 0:
            raise ConfigError(f"tau must be > 0; got {self.tau}")

    def init(self, weights: TensorMap) -> dict[str, np.ndarray]:
        """First moment 0, second moment tau^2."""
        first = {f"m/{name}": np.zeros(t.shape, np.float32) for name, t in weights.items()}
        second = {
            f"v/{name}": np.full(t.shape, self.tau**2, np.float32) for name, t in weights.items()
        }
        return first | second

    def finish(
        self, weights: TensorMap, state: TensorMap, direction: TensorMap
    ) -> tuple[dict[str, np.ndarray], TensorMap]:
        """One step of Adam; the moments are rounded to float32, as they are kept."""
        new: dict[str, np.ndarray] = {}
        moments: dict[str, np.ndarray] = {}
        for name, tensor in weights.items():
            step = direction[name]
            m = self.beta1 * state[f"m/{name}"].astype(np.float64) + (1 - self.beta1) * step
            v = self.beta2 * state[f"v/{name}"].astype(np.float64) + (1 - self.beta2) * step**2
            new[name] = (tensor + self.learning_rate * m / (np.sqrt(v) + self.tau)).astype(
                np.float32
            )
            moments[f"m/{name}"] = m.astype(np.float32)
            moments[f"v/{name}"] = v.astype(np.float32)
        return new, moments


def _add_scaled(total: np.ndarray, values: np.ndarray, *, factor: float) -> None:
    """Add factor * values to the total in float64, in blocks so that no temporary is large."""
    buffer = np.empty(min(_BLOCK, total.size))
    for start in range(0, total.size, _BLOCK):
        block = total[start : start + _BLOCK]
        block += np.multiply(
            values[start : start + _BLOCK], factor, out=buffer[: block.size], dtype=np.float64
        )
