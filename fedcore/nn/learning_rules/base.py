"""What a learning rule is: weights and batches in, an update out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from fedcore.nn.models.network import Network
from fedcore.plan import Training

__all__ = ["Batch", "LearningRule"]


class Batch(NamedTuple):
    """One local step's examples.

    Attributes:
        inputs: encoded, [time, batch, feature...].
        labels: int64 [batch].
        noise: what the network's random layers draw, see `fedcore.nn.functional.run`.
    """

    inputs: Tensor
    labels: Tensor
    noise: Tensor | None = None


class LearningRule(ABC):
    """A registered rule: a frozen dataclass whose fields are its options."""

    @abstractmethod
    def update(
        self,
        model: Network,
        params: Mapping[str, Tensor],
        batches: Sequence[Batch],
        training: Training,
        carry: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the client sends for this round.

        Args:
            model: the network's structure.
            params: the global weights by name; left unchanged.
            batches: one per local step.
            training: decides between gradient and delta.
            carry: the rule's own memory of this client's earlier rounds; empty at first.

        Returns:
            The update in the names and shapes of `params`, and the new memory.

        Raises:
            ConfigError: the number of batches is not `training.local_steps`.
        """
