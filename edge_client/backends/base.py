"""What a backend must do, and the names of those there are. Listing imports no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from fedcore.defences.noise import NoiseSource
from fedcore.energy import Evaluation
from fedcore.operations import LayerCount
from fedcore.plan import RoundPlan
from fedcore.registry import Registry
from fedcore.types import Missing, TensorMap

__all__ = ["BACKENDS", "Backend"]


class Backend(Protocol):
    """Computes updates and accuracies for one client.

    The same plan, weights and inputs give the same bits in every process while
    `plan.reproducible`. A factory takes `threads`: CPU threads to use, 0 for the backend's choice
    (one while `plan.reproducible`).
    """

    def load(self, plan: RoundPlan, weights: TensorMap) -> None:
        """Take over a round's model, training and global weights.

        Raises:
            ConfigError: the plan asks for something that this backend does not have.
            UpdateError: the weights do not fit the plan's model.
        """

    def train(
        self, inputs: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, noise: NoiseSource
    ) -> dict[str, np.ndarray]:
        """The round's update, after the defences' hooks on example gradients and on it.

        Args:
            inputs: encoded, float32 [time, batch, feature...], one per local step.
            labels: int64 [batch], one per local step.
            noise: what random layers draw from: the client's secret stream, or the system's.

        Returns:
            The gradient of the mean loss, or new minus old weights, as `plan.training.update`
            says; float32 by parameter name, owned by the caller.
        """

    def evaluate(self, inputs: np.ndarray, labels: np.ndarray) -> Evaluation:
        """Accuracy and mean loss of the loaded weights.

        Args:
            inputs: encoded, float32 [time, batch, feature...].
            labels: int64 [batch].
        """

    def count(self, inputs: np.ndarray) -> tuple[LayerCount, ...] | Missing:
        """Operations of one forward run of the loaded weights, per layer and example.

        Args:
            inputs: encoded, float32 [time, batch, feature...].

        Returns:
            What really ran here, or why it cannot be counted; never 0 for the unknown.
        """

    def describe(self) -> Mapping[str, str]:
        """Packages that take part in computing, by distribution: version."""


BACKENDS: Registry[Callable[..., Backend]] = Registry(
    "backend", {"torch": "edge_client.backends.torch_backend:TorchBackend"}
)
