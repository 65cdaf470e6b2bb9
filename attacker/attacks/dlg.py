"""Deep leakage from gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacker.attacks.matching import GradientMatching, LabelSource
from attacker.inputs import InputView
from attacker.objectives import squared_distance
from attacker.optimisers import Evaluate, Minimum, OnEvaluation, lbfgs
from attacker.starts import StartKind
from fedcore.errors import ConfigError

__all__ = ["DeepLeakage"]


@dataclass(frozen=True, kw_only=True)
class DeepLeakage(GradientMatching):
    """DLG of Zhu et al. 2019 (arXiv 1906.08935, Algorithm 1): squared distance and L-BFGS.

    Starts are normal, and no prior or box holds the candidate, as in the authors' code; what is
    reported is put into the range of inputs. Our L-BFGS has a line search, theirs has none.

    Attributes:
        labels: searched for along with the inputs, unless another source is named.
        memory: pairs that L-BFGS keeps; 100 as in torch's own, and far stronger than 20.
    """

    name: ClassVar[str] = "dlg"
    start: ClassVar[StartKind] = "normal"

    labels: LabelSource = "joint"
    memory: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise ConfigError(f"memory must be >= 1; got {self.memory}")

    def loss(
        self,
        found: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        candidate: Tensor,
        *,
        n_spatial: int,
    ) -> Tensor:
        """The squared distance; there is no prior."""
        del candidate, n_spatial
        return squared_distance(found, target)

    def minimise(
        self,
        evaluate: Evaluate,
        start: Tensor,
        *,
        view: InputView,
        n_evaluations: int,
        on_evaluation: OnEvaluation,
    ) -> Minimum:
        """L-BFGS, without a box."""
        del view
        return lbfgs(
            evaluate,
            start,
            n_evaluations=n_evaluations,
            memory=self.memory,
            on_evaluation=on_evaluation,
            patience=math.ceil(self.patience * n_evaluations),
        )
