"""Gradient matching among binary trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attacker.attacks.matching import GradientMatching
from attacker.inputs import InputView, train_view
from attacker.objectives import cosine_distance
from attacker.optimisers import Evaluate, Minimum, OnEvaluation, flip_spikes
from attacker.starts import StartKind, streams_from
from fedcore.data.encodings import encoding_of
from fedcore.errors import ConfigError
from fedcore.nn.arrays import to_tensor
from fedcore.plan import RoundPlan

__all__ = ["SpikeCompatible"]


@dataclass(frozen=True, kw_only=True)
class SpikeCompatible(GradientMatching):
    """Spike-compatible gradients (Liang et al. 2020, arXiv 2001.01587) on a matching loss.

    Theirs flip the spikes of an input until a network errs; here they flip until its gradient
    points where the observed one does. The search begins at silence and never leaves the binary
    trains. It is a weak baseline, to be read beside the score of the silent train itself.

    Attributes:
        share: probability that the spike with the largest gradient follows it.
        blind_share: probability that a spike flips where there is no gradient.
    """

    name: ClassVar[str] = "spike-compatible"
    start: ClassVar[StartKind] = "uniform"

    share: float = 0.1
    blind_share: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == "joint":
            raise ConfigError("labels 'joint' is for dlg; expected another source, say 'auto'")
        for option in ("share", "blind_share"):
            if not 0 < getattr(self, option) <= 1:
                raise ConfigError(f"{option} must lie in (0, 1]; got {getattr(self, option)}")

    def objection(self, plan: RoundPlan) -> str:
        """What the network receives must be binary."""
        if encoding_of(plan.encoding).is_binary:
            return ""
        return f"encoding {plan.encoding.name!r} has values other than 0 and 1: nothing to flip"

    def view(self, plan: RoundPlan, *, n_inputs: int) -> InputView:
        """The train, binary."""
        shape = plan.model.input_shape
        return train_view(plan.encoding, input_shape=shape, batch_size=n_inputs, is_binary=True)

    def loss(
        self,
        found: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        candidate: Tensor,
        *,
        n_spatial: int,
    ) -> Tensor:
        """Cosine distance; there is no prior."""
        del candidate, n_spatial
        return cosine_distance(found, target)

    def minimise(
        self,
        evaluate: Evaluate,
        start: Tensor,
        *,
        view: InputView,
        n_evaluations: int,
        on_evaluation: OnEvaluation,
    ) -> Minimum:
        """Flips from silence; what was drawn as a row's start seeds the draws of that row."""
        del view
        streams = streams_from(start, "flips")

        def draw() -> Tensor:
            shape = start.shape[1:]
            return to_tensor(np.stack([rng.random(shape, np.float32) for rng in streams]))

        return flip_spikes(
            evaluate,
            torch.zeros_like(start),
            n_evaluations=n_evaluations,
            share=self.share,
            blind_share=self.blind_share,
            draw=draw,
            on_evaluation=on_evaluation,
            patience=math.ceil(self.patience * n_evaluations),
        )
