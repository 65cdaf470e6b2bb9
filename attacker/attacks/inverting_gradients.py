"""Inverting gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacker.attacks.matching import GradientMatching
from attacker.inputs import InputView
from attacker.objectives import cosine_distance
from attacker.optimisers import Evaluate, Minimum, OnEvaluation, signed_adam
from attacker.priors import total_variation
from attacker.starts import StartKind
from fedcore.errors import ConfigError

__all__ = ["InvertingGradients"]


@dataclass(frozen=True, kw_only=True)
class InvertingGradients(GradientMatching):
    """Geiping et al. 2020 (arXiv 2003.14053, Eq. 4): cosine and total variation, signed Adam.

    Starts are uniform in the range of inputs, where their code draws them normal.

    Attributes:
        total_variation: weight of the prior.
        learning_rate: of Adam at the beginning.
    """

    name: ClassVar[str] = "inverting-gradients"
    start: ClassVar[StartKind] = "uniform"
    searches_labels: ClassVar[bool] = False
    optimiser: ClassVar[Callable[..., Minimum]] = staticmethod(signed_adam)

    total_variation: float = 1e-4
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == "joint" and not self.searches_labels:
            raise ConfigError("labels 'joint' is for dlg; expected another source, say 'auto'")
        if self.total_variation < 0:
            raise ConfigError(f"total_variation must be >= 0; got {self.total_variation}")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be > 0; got {self.learning_rate}")

    def loss(
        self,
        found: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        candidate: Tensor,
        *,
        n_spatial: int,
    ) -> Tensor:
        """Cosine distance and weighted total variation."""
        prior = total_variation(candidate, n_spatial=n_spatial)
        return cosine_distance(found, target) + self.total_variation * prior

    def minimise(
        self,
        evaluate: Evaluate,
        start: Tensor,
        *,
        view: InputView,
        n_evaluations: int,
        on_evaluation: OnEvaluation,
    ) -> Minimum:
        """The class's optimiser, within the range of inputs."""
        return self.optimiser(
            evaluate,
            start,
            n_evaluations=n_evaluations,
            learning_rate=self.learning_rate,
            low=view.low,
            high=view.high,
            on_evaluation=on_evaluation,
            patience=math.ceil(self.patience * n_evaluations),
        )
