"""Layer peeling: read the features behind the readout, then find inputs that have them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from attacker.attacks.base import Attack, Budget, NetworkOf, Progress, refusal, tell_part
from attacker.gradients import batch_size_of, gradient_of, norm_of
from attacker.inputs import InputView, input_view
from attacker.optimisers import Minimum, OnEvaluation
from attacker.peeling.descent import jittered_adam
from attacker.peeling.matching import FeatureMatching, Peeled, can_match_trains
from attacker.peeling.readout import Readout, peel
from attacker.peeling.smooth import smooth_then_sharp
from attacker.starts import draw_start
from fedcore.errors import ConfigError
from fedcore.nn.arrays import to_array, to_tensor
from fedcore.nn.functional import step_weights
from fedcore.nn.models import READOUT, build
from fedcore.seeds import stream
from fedcore.strict import canonical_json
from fedcore.types import Knowledge, Observation, Reconstruction, TensorMap

__all__ = ["Peeling"]


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One victim, read.

    Attributes:
        step_weights: how much each step counts in the logits, [time].
        gradient: to match beside the features, by name; empty where they are matched alone.
        readout: what its readout's gradient says.
        knowledge: the capabilities that were used.
    """

    seen: Observation
    step_weights: Tensor
    gradient: TensorMap
    readout: Readout
    knowledge: tuple[str, ...]

    @property
    def kind(self) -> bytes:
        """Equal for victims that one search can hold."""
        plan = self.seen.plan
        return canonical_json(
            (plan.model, plan.encoding, self.readout.trains is None, sorted(self.gradient))
        )

    @property
    def examples(self) -> list[Peeled]:
        """What to search for."""
        trains = self.readout.trains
        return [
            Peeled(
                weights=self.seen.weights,
                means=means,
                trains=None if trains is None else trains[i],
                gradient=self.gradient,
            )
            for i, means in enumerate(self.readout.means)
        ]


@dataclass(frozen=True, kw_only=True)
class Peeling(Attack):
    """Reads the readout's inputs from its gradient and searches for raw inputs that cause them.

    The labels are needed for nothing; they follow from the same gradient. Each example of a batch
    is searched for alone, `attacker.peeling.unmixing` having separated them; where it cannot, an
    example is the mixture that its class's row of the gradient holds. Restart r of an answer is,
    of each example, the r-th best by its own loss, the mean over examples.

    The certificate says, by name:

    * "rank_excess" (batch of one): second singular value of the readout's gradient over the
      first; near 0 for one example, and whatever is above it is noise or other examples.
    * "unmixed" (batches): 1 where the examples were separated, 0 where they are mixtures.
    * "negative_mass" (separated batches): a large one disproves the separation; a small one does
      not prove it.
    * "deviation", "misfit" (spikes): see `attacker.peeling.features.Decoded`.

    Attributes:
        labels: "granted" needs the capability, "rule" reads them from the gradient, "auto" takes
            granted ones where there are any. They change the answer's order, not its inputs.
        sharpness: of the surrogate that the search differentiates, where the network spikes.
        jitter: see `attacker.peeling.descent`, for networks that spike; in units of the inputs.
        total_variation: weight of the prior where the network spikes.
        smooth_total_variation: weight of the prior where it does not; 500 times that in the first
            third of the search, and 10 times that in the second.
        polish: share of the evaluations, at the end, that match the gradients of convolutions, too
            (`attacker.peeling.convolutions`): for batches of one, exact gradients and networks
            that do not spike.
        learning_rate: of Adam at the beginning, for networks that spike.
    """

    name: ClassVar[str] = "peeling"

    labels: Literal["auto", "granted", "rule"] = "auto"
    sharpness: float = 8.0
    jitter: float = 0.1
    total_variation: float = 0.15
    smooth_total_variation: float = 2e-4
    polish: float = 0.0
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        for option in ("jitter", "total_variation", "smooth_total_variation"):
            if getattr(self, option) < 0:
                raise ConfigError(f"{option} must be >= 0; got {getattr(self, option)}")
        if not 0 <= self.polish < 1:
            raise ConfigError(f"polish must lie in [0, 1); got {self.polish}")
        for option in ("sharpness", "learning_rate"):
            if not getattr(self, option) > 0:
                raise ConfigError(f"{option} must be > 0; got {getattr(self, option)}")

    @property
    def requires(self) -> tuple[str, ...]:
        """The labels, where the options ask for granted ones."""
        return ("labels",) if self.labels == "granted" else ()

    def reconstruct(
        self,
        seen: Sequence[Observation],
        known: Sequence[Knowledge],
        *,
        rng: np.random.Generator,
        budget: Budget,
        progress: Progress,
        network_of: NetworkOf = build,
    ) -> list[Reconstruction]:
        """See `Attack`. Victims of one model and encoding form one search."""
        seed = int(rng.integers(2**63))
        answers: dict[int, Reconstruction] = {}
        groups: dict[bytes, list[tuple[int, _Case]]] = {}
        for i, (observation, told) in enumerate(zip(seen, known, strict=True)):
            case = self._read(observation, told, seed=seed, network_of=network_of)
            if isinstance(case, str):
                answers[i] = refusal(observation, attack=self.name, budget=budget, why=case)
            else:
                groups.setdefault(case.kind, []).append((i, case))
        for n_before, group in enumerate(groups.values()):
            found = self._search(
                [case for _, case in group],
                seed=seed,
                budget=budget,
                tell=partial(tell_part, progress, n_before, len(groups)),
                network_of=network_of,
            )
            answers |= dict(zip((i for i, _ in group), found, strict=True))
        return [answers[i] for i in range(len(seen))]

    def _read(
        self, seen: Observation, told: Knowledge, *, seed: int, network_of: NetworkOf
    ) -> _Case | str:
        """The case, or why there is none."""
        gradient = gradient_of(seen)
        is_granted = self.labels == "granted" or (self.labels == "auto" and told.labels is not None)
        labels = told.need("labels") if is_granted else None
        model, n_steps = seen.plan.model, seen.plan.encoding.n_steps
        counted = step_weights(model, n_steps=n_steps)
        if norm_of(gradient) == 0:
            return "every gradient in the update is zero: there is nothing to peel"
        if counted is None:
            return (
                f"the logits of readout {model.readout!r} are no weighted sum of its inputs over "
                "time, so its gradient does not give them away"
            )
        weight, bias = gradient.get(f"{READOUT}.weight"), gradient.get(f"{READOUT}.bias")
        if weight is None:
            return (
                "the update holds no linear layer that gives the logits: there is nothing to peel"
            )
        if bias is None:
            return "the readout has no bias, whose gradient would give the features their scale"
        if not bias.any():
            return "the gradient in the readout's bias is zero: the features have no scale"
        network = network_of(model)
        n_examples = batch_size_of(seen) if labels is None else len(labels)
        if network.mixes_examples:
            return (
                "the batch is normalised by its own statistics: an example's features do not "
                "follow from its input as they do from those of the search's other rows"
            )
        readout = peel(
            weight,
            bias,
            step_weights=to_array(counted) if can_match_trains(network) else None,
            n_examples=n_examples,
            labels=labels,
            rng=stream(seed, "unmix", seen.ticket.round, seen.ticket.client_id),
        )
        return _Case(
            seen=seen,
            step_weights=counted,
            gradient=gradient if self.polish and not model.spiking and n_examples == 1 else {},
            readout=readout,
            knowledge=("labels",) if is_granted else (),
        )

    def _search(
        self,
        cases: Sequence[_Case],
        *,
        seed: int,
        budget: Budget,
        tell: Progress,
        network_of: NetworkOf,
    ) -> list[Reconstruction]:
        started_ns = time.monotonic_ns()
        plan = cases[0].seen.plan
        model, is_spiking = plan.model, plan.model.spiking
        view = input_view(plan.encoding, input_shape=model.input_shape, batch_size=1)
        neuron = replace(model.neuron, sharpness=self.sharpness)
        matching = FeatureMatching(
            [example for case in cases for example in case.examples],
            network=network_of(replace(model, neuron=neuron)),
            view=view,
            restarts=budget.restarts,
            total_variation=self.total_variation if is_spiking else self.smooth_total_variation,
            n_spatial=min(len(model.input_shape) - 1, 2),
            step_weights=cases[0].step_weights.float(),
        )
        starts = [_starts(case, view, budget=budget, seed=seed) for case in cases]
        sizes = [len(start) for start in starts]
        minimum = self._minimise(
            matching,
            torch.cat(starts),
            view=view,
            n_evaluations=budget.iterations,
            seed=seed,
            on_evaluation=lambda n, losses: tell(
                n, budget.iterations, _lowest(losses, sizes, budget)
            ),
        )
        kept = minimum.candidates.clamp(view.low, view.high)
        found = [torch.split(part, sizes) for part in (kept, matching.losses(kept), minimum.curves)]
        duration_s = (time.monotonic_ns() - started_ns) * 1e-9 / len(cases)
        return [
            _answer(
                case, *rows, view=view, n_evaluations=minimum.n_evaluations, duration_s=duration_s
            )
            for case, *rows in zip(cases, *found, strict=True)
        ]

    def _minimise(
        self,
        matching: FeatureMatching,
        starts: Tensor,
        *,
        view: InputView,
        n_evaluations: int,
        seed: int,
        on_evaluation: OnEvaluation,
    ) -> Minimum:
        """Search all rows."""
        if not matching.is_spiking:
            return smooth_then_sharp(
                matching,
                starts,
                view=view,
                n_evaluations=n_evaluations,
                polish=self.polish,
                on_evaluation=on_evaluation,
            )
        return jittered_adam(
            matching.evaluate,
            starts,
            n_evaluations=n_evaluations,
            learning_rate=self.learning_rate,
            jitter=self.jitter,
            low=view.low,
            high=view.high,
            seed=seed,
            on_evaluation=on_evaluation,
        )


def _starts(case: _Case, view: InputView, *, budget: Budget, seed: int) -> Tensor:
    """Uniform in the range of inputs, [example and restart, variable]."""
    n_examples, n_variables = len(case.readout.labels), prod(view.shape)
    drawn = [
        draw_start(
            "uniform", n_examples * n_variables, seed=seed, ticket=case.seen.ticket, restart=r
        ).reshape(n_examples, n_variables)
        for r in range(budget.restarts)
    ]
    return to_tensor(np.stack(drawn, axis=1)).flatten(0, 1)


def _lowest(losses: Tensor, sizes: list[int], budget: Budget) -> np.ndarray:
    """Of each victim, the mean over its examples of the best restart's loss."""
    by_victim = [
        part.reshape(-1, budget.restarts).amin(1).mean() for part in torch.split(losses, sizes)
    ]
    return to_array(torch.stack(by_victim))


def _answer(
    case: _Case,
    rows: Tensor,
    losses: Tensor,
    curves: Tensor,
    *,
    view: InputView,
    n_evaluations: int,
    duration_s: float,
) -> Reconstruction:
    """Restarts in the order of their losses, example by example."""
    n_examples = len(case.readout.labels)
    by_example = losses.reshape(n_examples, -1)
    order = by_example.argsort(dim=1, stable=True)
    example = torch.arange(n_examples)[:, None]
    images = torch.cat([view.to_raw(row.reshape(view.shape)) for row in rows])
    candidates = images.reshape(n_examples, -1, *images.shape[1:])[example, order]
    sorted_curves = curves.reshape(*by_example.shape, -1)[example, order]
    return Reconstruction(
        ticket=case.seen.ticket,
        sha256=case.seen.sha256,
        attack=Peeling.name,
        candidates=to_array(candidates.swapaxes(0, 1)),
        labels=np.tile(case.readout.labels, (by_example.shape[1], 1)),
        losses=to_array(by_example[example, order].mean(0)),
        loss_curves=to_array(sorted_curves.mean(0)),
        n_iterations=n_evaluations,
        duration_s=duration_s,
        knowledge=case.knowledge,
        labels_from="granted" if case.knowledge else "rule",
        certificate=case.readout.certificate,
    )
