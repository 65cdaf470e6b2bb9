"""GradInversion: statistics of batch normalisation as a prior, and restarts that agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from attacker.attacks.inverting_gradients import InvertingGradients
from attacker.attacks.matching import LabelSource
from attacker.batch import Batch
from attacker.inputs import InputView
from attacker.objectives import cosine_distance, squared_distance
from attacker.optimisers import Evaluate, Minimum, OnEvaluation, adam
from attacker.priors import Belief, statistics_distance, total_variation
from attacker.registration import registered
from attacker.starts import streams_from
from fedcore.errors import ConfigError, KnowledgeError
from fedcore.nn.arrays import to_arrays, to_tensor
from fedcore.nn.functional import Params, batch_statistics
from fedcore.nn.models.network import Network
from fedcore.nn.models.normalisation import Moments
from fedcore.types import Knowledge

__all__ = ["GradInversion"]

_WEIGHT = "weight"
_NOT_NEGATIVE = (
    "mean_square",
    "batch_norm",
    "fixed_batch_norm",
    "consistency",
    "registration",
    "noise",
)
_DISTANCES = {"squared": squared_distance, "cosine": cosine_distance}


@dataclass(frozen=True, kw_only=True)
class GradInversion(InvertingGradients):
    """Yin et al. 2021, "See through gradients" (arXiv 2104.07586), by Adam within a box.

    The loss of a candidate is how far its gradient is from the observed one, plus total variation,
    plus its mean square, plus how far what its normalising layers receive is from known statistics:
    granted ones of the batch, else those that a network with normalisation "batch-eval" is fixed
    at, where somebody has measured them, else none. The certificate says "statistics" 1 for granted
    and 0 for fixed ones. Beside that, each restart is drawn to the mean of its victim's restarts
    with the same labels, after they were brought over their plain mean; this is no part of the
    losses that choose among them.

    Restarts are brought over their mean by whole pixels, theirs by RANSAC-flow; starts are uniform
    in the range of inputs, theirs normal. Where a batch holds one label several times, restarts may
    have these examples in different orders, and their mean blurs them.

    Attributes:
        distance: between gradients, over all layers: "squared", relative to the observed one's
            length (they add up the distances of the layers), or "cosine", which trained networks
            need: from starts whose gradient is many times longer the squared one leads nowhere.
        total_variation: weight of the prior.
        mean_square: weight of the candidate's mean square.
        batch_norm: weight of the distance from granted statistics.
        fixed_batch_norm: weight of the distance from a network's fixed ones, which hold for many
            examples together, and for few of them only roughly.
        consistency: weight of the mean squared distance from the restarts' mean.
        registration: pixels that an image of a restart may move along each axis before the mean is
            taken; 0 for none.
        noise: standard deviation of what is added to each step of Adam, in units of its rate; 0.2
            in the settings that breaching has for the paper.
    """

    name: ClassVar[str] = "gradinversion"

    labels: LabelSource = "gradinversion"
    distance: Literal["squared", "cosine"] = "squared"
    total_variation: float = 3e-3
    mean_square: float = 1e-6
    batch_norm: float = 1.0
    fixed_batch_norm: float = 1e-3
    consistency: float = 0.01
    registration: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in _NOT_NEGATIVE:
            if getattr(self, option) < 0:
                raise ConfigError(f"{option} must be >= 0; got {getattr(self, option)}")

    def loss(
        self,
        found: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        candidate: Tensor,
        *,
        n_spatial: int,
    ) -> Tensor:
        """The distance, weighted total variation and mean square."""
        return (
            _DISTANCES[self.distance](found, target)
            + self.total_variation * total_variation(candidate, n_spatial=n_spatial)
            + self.mean_square * candidate.square().mean()
        )

    def belief(self, told: Knowledge, network: Network) -> Belief:
        """The batch's statistics, or those that the network is fixed at.

        Raises:
            KnowledgeError: the granted ones are of other layers than the network has.
        """
        if self.batch_norm and told.batch_statistics is not None:
            expected = {f"{name}.{kind}" for name in network.norms for kind in Moments._fields}
            if odd := sorted(told.batch_statistics.keys() ^ expected):
                raise KnowledgeError(
                    f"granted batch statistics do not fit the network in {', '.join(odd)}"
                )
            return Belief(
                values={**told.batch_statistics, _WEIGHT: np.float32(self.batch_norm)},
                knowledge=("batch_statistics",),
                certificate={"statistics": 1.0},
            )
        fixed = to_arrays(network.fixed_statistics)
        is_measured = any(
            (numbers != (1 if name.endswith(".variance") else 0)).any()
            for name, numbers in fixed.items()
        )
        if not (is_measured and self.fixed_batch_norm):
            return Belief()
        return Belief(
            values={**fixed, _WEIGHT: np.float32(self.fixed_batch_norm)},
            certificate={"statistics": 0.0},
        )

    def prior(
        self, network: Network, weights: Params, inputs: Tensor, known: Mapping[str, Tensor]
    ) -> Tensor:
        """The weighted distance between statistics."""
        found = batch_statistics(network, weights, inputs)
        return known[_WEIGHT] * statistics_distance(found, known)

    def evaluate(self, batch: Batch) -> Evaluate:
        """The batch's losses, and the pull to what the restarts agree on."""

        def drawn_together(rows: Tensor) -> tuple[Tensor, Tensor]:
            losses, slopes = batch.evaluate(rows)
            away = rows - self._agreed(batch, rows)
            return (
                losses + self.consistency * away.square().mean(1),
                slopes + 2 * self.consistency / rows.shape[1] * away,
            )

        return drawn_together if self.consistency else batch.evaluate

    def minimise(
        self,
        evaluate: Evaluate,
        start: Tensor,
        *,
        view: InputView,
        n_evaluations: int,
        on_evaluation: OnEvaluation,
    ) -> Minimum:
        """Adam within the range of inputs; a row's noise is seeded by its start."""
        streams = streams_from(start, "noise")

        def noise() -> Tensor:
            drawn = [rng.normal(scale=self.noise, size=start.shape[1]) for rng in streams]
            return to_tensor(np.stack(drawn)).to(start)

        return adam(
            evaluate,
            start,
            n_evaluations=n_evaluations,
            learning_rate=self.learning_rate,
            low=view.low,
            high=view.high,
            on_evaluation=on_evaluation,
            patience=math.ceil(self.patience * n_evaluations),
            noise=noise if self.noise else None,
        )

    def _agreed(self, batch: Batch, rows: Tensor) -> Tensor:
        """The mean of each row's group, [row, variable]."""
        means = batch.group_means(rows)
        if not self.registration:
            return means
        shape = (len(rows), *batch.view.shape)
        moved = registered(
            rows.reshape(shape),
            means.reshape(shape),
            example_axis=2 if batch.view.is_train else 1,
            reach=self.registration,
        )
        return batch.group_means(moved.flatten(1))
