"""What attacks share that search the weights of an untrained generator."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from attacker.attacks.inverting_gradients import InvertingGradients
from attacker.inputs import InputView
from attacker.optimisers import Evaluate, Minimum, OnEvaluation
from attacker.starts import StartKind
from fedcore.errors import ConfigError
from fedcore.plan import RoundPlan

__all__ = ["GeneratorMatching"]


@dataclass(frozen=True, kw_only=True)
class GeneratorMatching(InvertingGradients):
    """The candidate is what a network draws from a fixed latent; its weights are searched.

    Nothing is trained beforehand: that such a network draws images more readily than noise is all
    that it knows. All victims and restarts have the same latent; each has weights of its own.

    Attributes:
        channels: of the generator's layers.
    """

    start: ClassVar[StartKind] = "normal"

    total_variation: float = 0.001
    learning_rate: float = 0.005
    channels: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 4 or self.channels % 4:
            raise ConfigError(f"channels must be a multiple of 4, at least 4; got {self.channels}")

    def objection(self, plan: RoundPlan) -> str:
        """A plain vector has no neighbourhoods that a convolution could know."""
        shape = list(plan.model.input_shape)
        if len(shape) > 1:
            return ""
        return (
            f"inputs of shape {shape} have no spatial axes for a convolutional generator; it draws "
            "[channel, height, width] or [channel, length]"
        )

    def minimise(
        self,
        evaluate: Evaluate,
        start: Tensor,
        *,
        view: InputView,
        n_evaluations: int,
        on_evaluation: OnEvaluation,
    ) -> Minimum:
        """Signed Adam on weights of any size."""
        return super().minimise(
            evaluate,
            start,
            view=replace(view, low=-math.inf, high=math.inf),
            n_evaluations=n_evaluations,
            on_evaluation=on_evaluation,
        )
