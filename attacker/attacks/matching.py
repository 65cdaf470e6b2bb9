"""What gradient-matching attacks share: everything but the loss, the start and the optimiser."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from attacker.adaptive import Adaptation, adaptation_to
from attacker.attacks.base import Attack, Budget, NetworkOf, Progress, refusal, tell_part
from attacker.batch import Batch, Update, Victim
from attacker.gradients import mean_gradient_of, norm_of
from attacker.inputs import InputView, input_view
from attacker.labels.guesses import NEEDING_AUXILIARY_DATA, Guesses, guess_labels
from attacker.local_steps import LocalSteps
from attacker.optimisers import Evaluate, Minimum, OnEvaluation
from attacker.priors import Belief
from attacker.searched import Searched
from attacker.starts import StartKind
from fedcore.errors import ConfigError
from fedcore.nn.functional import Params
from fedcore.nn.models import build
from fedcore.nn.models.network import Network
from fedcore.plan import ModelSpec, RoundPlan
from fedcore.seeds import stream
from fedcore.strict import canonical_json
from fedcore.types import Knowledge, Observation, Reconstruction, TensorMap

__all__ = ["Case", "GradientMatching", "LabelSource"]

LabelSource = Literal[
    "auto",
    "granted",
    "joint",
    "rule",
    "auxiliary",
    "class-means",
    "flat",
    "gradinversion",
    "idlg",
    "ilrg",
    "llg",
]
"""Where labels come from: "rule" reads the label of a batch of one from the gradient (iDLG),
"granted" needs the capability, "joint" searches for them along with the inputs, and the others are
label estimators (`attacker.labels`). "auto" takes granted labels, else the rule for a batch of one,
else the estimator that can do most with what is granted."""

_NOTHING_TO_MATCH = "every gradient in the update is zero: there is nothing to match"
_DIVERGED = "no restart ever had a finite loss"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One victim, read.

    Attributes:
        gradient: observed, by name; the mean of the local steps'.
        norm: its length over all layers.
        steps: that the client made.
        guesses: at the labels; none where they are searched for.
        belief: about the input.
        adaptation: to what a defence or the codec did to the update.
    """

    seen: Observation
    gradient: TensorMap
    norm: float
    steps: LocalSteps
    guesses: Guesses
    belief: Belief
    adaptation: Adaptation

    @property
    def kind(self) -> bytes:
        """Equal for victims that one batch can hold."""
        plan = self.seen.plan
        return canonical_json(
            (
                plan.model,
                plan.encoding,
                self.steps,
                self.adaptation.kind,
                sorted(self.belief.values),
            )
        )

    @property
    def knowledge(self) -> tuple[str, ...]:
        """Capabilities that were used."""
        return self.guesses.knowledge + self.belief.knowledge

    def victim(self, *, restarts: int, seed: int) -> Victim:
        """With a gradient of length 1: the smallest ones are squared without underflow.

        Restarts take the guesses at the labels in turn, and the ways they may lie over the steps.
        """
        ticket = self.seen.ticket
        rng = stream(seed, "label-order", ticket.round, ticket.client_id)
        unit = {n: (g / self.norm).astype(np.float32) for n, g in self.gradient.items()}
        labels = self.steps.arranged(
            self.guesses.labels, n_ways=restarts, rng=rng, step_order=self.guesses.step_order
        )
        return Victim(
            ticket=ticket,
            weights=self.seen.weights,
            gradient=unit,
            scale=1 / self.norm,
            labels=labels,
            known=self.belief.values,
        )


@dataclass(frozen=True, kw_only=True)
class GradientMatching(Attack):
    """Searches for inputs whose gradient is the observed one, all victims and restarts at once.

    Of each restart the candidate with the lowest own loss is kept, put into the range of inputs,
    and measured again there: the losses of a reconstruction are those of its very candidates.

    Attributes:
        labels: where they come from.
        adaptive: whether the loss adapts to what was done to an update (`attacker.adaptive`); what
            was chosen stands in the certificate.
        patience: share of the budget without progress of any row of a search after which it ends;
            1 for never.
        compiles: whether to compile the search (`attacker.recorded`): pays for long ones only.
    """

    name: ClassVar[str]
    start: ClassVar[StartKind]

    labels: LabelSource = "auto"
    adaptive: bool = True
    patience: float = 1.0
    compiles: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.patience <= 1:
            raise ConfigError(f"patience must lie in (0, 1]; got {self.patience}")

    @property
    def requires(self) -> tuple[str, ...]:
        """What the source of the labels needs."""
        if self.labels in NEEDING_AUXILIARY_DATA:
            return ("auxiliary_data",)
        return ("labels",) if self.labels == "granted" else ()

    @abstractmethod
    def loss(
        self,
        found: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        candidate: Tensor,
        *,
        n_spatial: int,
    ) -> Tensor:
        """The loss of one row, a scalar.

        Args:
            found: the candidate's gradient.
            target: the observed one, of length 1 over all layers.
            candidate: see `attacker.inputs`.
            n_spatial: trailing axes of the candidate that are space.
        """

    @abstractmethod
    def minimise(
        self,
        evaluate: Evaluate,
        start: Tensor,
        *,
        view: InputView,
        n_evaluations: int,
        on_evaluation: OnEvaluation,
    ) -> Minimum:
        """Search all rows."""

    def objection(self, plan: RoundPlan) -> str:
        """Why a victim of this plan cannot be attacked, in one line, or ""."""
        del plan
        return ""

    def view(self, plan: RoundPlan, *, n_inputs: int) -> InputView:
        """What a candidate is."""
        shape = plan.model.input_shape
        return input_view(plan.encoding, input_shape=shape, batch_size=n_inputs)

    def searched(self, view: InputView, *, n_classes: int, seed: int) -> Searched | None:
        """What the variables of a search stand for; None for the candidate itself."""
        del view, n_classes, seed
        return None

    def update(self, steps: LocalSteps, model: ModelSpec, network_of: NetworkOf) -> Update:
        """What takes a candidate to the update that a client would have sent."""
        del model, network_of
        return steps.update

    def belief(self, told: Knowledge, network: Network) -> Belief:
        """What the attack uses of what is known beside the gradient and the labels."""
        del told, network
        return Belief()

    def prior(
        self, network: Network, weights: Params, inputs: Tensor, known: Mapping[str, Tensor]
    ) -> Tensor:
        """What a belief adds to the loss of one row, a scalar; asked for where there is one.

        Args:
            network: that is attacked.
            weights: its own.
            inputs: what the network would receive, [time, batch, feature...].
            known: the values of the belief.
        """
        del network, weights, known
        return inputs.new_zeros(())

    def evaluate(self, batch: Batch) -> Evaluate:
        """What the search goes by; the losses of an answer are the batch's own."""
        return batch.evaluate

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
        """See `Attack`. Victims of one model, encoding, batch and adaptation share a search."""
        seed = int(rng.integers(2**63))
        cases = [self._read(*victim, network_of) for victim in zip(seen, known, strict=True)]
        answers: dict[int, Reconstruction] = {}
        groups: dict[bytes, list[int]] = {}
        for i, case in enumerate(cases):
            if why := self.objection(case.seen.plan):
                answers[i] = self._refused(case, budget, why=why)
            elif case.norm == 0:
                answers[i] = self._refused(case, budget, why=_NOTHING_TO_MATCH)
            else:
                groups.setdefault(case.kind, []).append(i)
        for n_before, group in enumerate(groups.values()):
            found = self._search(
                [cases[i] for i in group],
                seed=seed,
                budget=budget,
                tell=partial(tell_part, progress, n_before, len(groups)),
                network_of=network_of,
            )
            answers |= dict(zip(group, found, strict=True))
        return [answers[i] for i in range(len(cases))]

    def _read(self, seen: Observation, told: Knowledge, network_of: NetworkOf) -> Case:
        gradient = mean_gradient_of(seen)
        steps = LocalSteps.behind(seen)
        network = network_of(seen.plan.model)
        if self.labels == "granted" or (self.labels == "auto" and told.labels is not None):
            guesses = Guesses.granted(told)
            steps = LocalSteps.behind(seen, n_labels=len(guesses.labels[0]))
        elif self.labels == "joint":
            guesses = Guesses(labels=(), source="joint")
        else:
            guesses = guess_labels(
                seen,
                told,
                source=self.labels,
                gradient=gradient,
                n_examples=steps.n_inputs,
                network=network,
            )
        return Case(
            seen=seen,
            gradient=gradient,
            norm=norm_of(gradient),
            steps=steps,
            guesses=guesses,
            belief=self.belief(told, network),
            adaptation=adaptation_to(
                gradient,
                model=seen.plan.model,
                n_inputs=steps.n_inputs,
                weights=seen.weights if steps.n_steps == 1 else None,
                defences=seen.plan.defences,
            )
            if self.adaptive
            else Adaptation(),
        )

    def _search(
        self,
        cases: Sequence[Case],
        *,
        seed: int,
        budget: Budget,
        tell: Progress,
        network_of: NetworkOf,
    ) -> list[Reconstruction]:
        plan = cases[0].seen.plan
        view = self.view(plan, n_inputs=cases[0].steps.n_inputs)
        searched = self.searched(view, n_classes=plan.model.n_classes, seed=seed)
        batch = self._batch(cases, view, searched, seed=seed, budget=budget, network_of=network_of)
        return self._solve(cases, batch, view, seed=seed, budget=budget, tell=tell)

    def _batch(
        self,
        cases: Sequence[Case],
        view: InputView,
        searched: Searched | None,
        *,
        seed: int,
        budget: Budget,
        network_of: NetworkOf,
    ) -> Batch:
        """All of one kind."""
        plan, steps = cases[0].seen.plan, cases[0].steps
        n_spatial = min(len(plan.model.input_shape) - 1, 2)
        return Batch(
            [case.victim(restarts=budget.restarts, seed=seed) for case in cases],
            network=network_of(plan.model),
            view=view,
            n_examples=steps.n_inputs,
            restarts=budget.restarts,
            objective=cases[0].adaptation.objective(self.loss, n_spatial=n_spatial),
            update=self.update(steps, plan.model, network_of),
            searched=searched,
            prior=self.prior if cases[0].belief.values else None,
            compiles=self.compiles,
        )

    def _solve(
        self,
        cases: Sequence[Case],
        batch: Batch,
        view: InputView,
        *,
        seed: int,
        budget: Budget,
        tell: Progress,
    ) -> list[Reconstruction]:
        started_ns = time.monotonic_ns()
        steps = cases[0].steps
        minimum = self.minimise(
            self.evaluate(batch),
            batch.starts(self.start, seed=seed),
            view=view,
            n_evaluations=budget.iterations,
            on_evaluation=lambda n, losses: tell(
                n, budget.iterations, batch.by_victim(losses).min(axis=1)
            ),
        )
        kept = batch.within_range(minimum.candidates)
        losses = batch.by_victim(batch.losses(kept))
        candidates, labels, trains = batch.raw_inputs(kept), batch.labels(kept), batch.trains(kept)
        curves = batch.by_victim(minimum.curves)
        duration_s = (time.monotonic_ns() - started_ns) * 1e-9 / len(cases)
        return [
            Reconstruction(
                ticket=case.seen.ticket,
                sha256=case.seen.sha256,
                attack=self.name,
                candidates=steps.spread(candidates[i]),
                labels=steps.spread(labels[i]),
                losses=losses[i],
                loss_curves=curves[i],
                n_iterations=minimum.n_evaluations,
                duration_s=duration_s,
                knowledge=case.knowledge,
                labels_from=case.guesses.source,
                trains=None if trains is None else steps.spread(trains[i], axis=2),
                certificate={
                    **case.adaptation.certificate,
                    **case.guesses.certificate,
                    **case.belief.certificate,
                },
            )
            if np.isfinite(losses[i]).any()
            else self._refused(case, budget, why=_DIVERGED)
            for i, case in enumerate(cases)
        ]

    def _refused(self, case: Case, budget: Budget, *, why: str) -> Reconstruction:
        return refusal(
            case.seen, attack=self.name, budget=budget, why=why, knowledge=case.knowledge
        )
