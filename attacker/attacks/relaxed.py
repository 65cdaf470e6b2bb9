"""Gradient matching that sees through spikes with a softer surrogate than the victim's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from attacker.attacks.base import Budget, NetworkOf, Progress, tell_part
from attacker.attacks.inverting_gradients import InvertingGradients
from attacker.batch import Update
from attacker.inputs import InputView, draws_view, train_view
from attacker.local_steps import LocalSteps
from attacker.optimisers import Minimum, adam
from fedcore.errors import ConfigError
from fedcore.nn.functional import Params
from fedcore.nn.models import build
from fedcore.nn.models.network import Network
from fedcore.plan import ModelSpec, RoundPlan
from fedcore.types import Knowledge, Observation, Reconstruction

__all__ = ["RelaxedMatching", "SearchFor"]

SearchFor = Literal["input", "draws", "train", "spikes"]
"""What a candidate is: "input" as `attacker.inputs` has it, where a rate-coded train is replaced by
its expectation; "draws" the same input, seen through several draws of its train whose gradients are
averaged; "train" the relaxed train over time; "spikes" the same, rounded where the network receives
it."""


@dataclass(frozen=True, kw_only=True)
class RelaxedMatching(InvertingGradients):
    """Inverting Gradients with a surrogate of the attacker's own in the second derivative.

    The victim's gradient holds the derivative of spikes in the weights. A search differentiates
    that once more, in the input, and where spikes are sharp it then sees nothing but the few
    neurons near their threshold. Here the candidate's gradient has the values that the victim's
    network gives and the derivatives of one with a softer surrogate:

        found = g_soft + stop(g_victim - g_soft)

    So the true input is still a minimum, and every loss, also the one that chooses among the
    restarts, is measured on the victim's own network. Adam takes the gradient as it is,
    where Inverting Gradients takes its sign.

    Attributes:
        sharpness: of the attacker's surrogates, in the victim's shape; restarts take them in turn.
        search_for: see `SearchFor`.
        n_draws: how many, for "draws".
    """

    name: ClassVar[str] = "relaxed-matching"
    optimiser: ClassVar[Callable[..., Minimum]] = staticmethod(adam)

    total_variation: float = 0.1
    sharpness: tuple[float, ...] = (3.0,)
    search_for: SearchFor = "input"
    n_draws: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sharpness or not all(k > 0 for k in self.sharpness):
            raise ConfigError(f"sharpness must be numbers > 0, at least one; got {self.sharpness}")
        if self.n_draws < 1:
            raise ConfigError(f"n_draws must be >= 1; got {self.n_draws}")

    def objection(self, plan: RoundPlan) -> str:
        """A conventional network has no surrogate; directly encoded inputs have no train."""
        if not plan.model.spiking:
            return "the network does not spike: there is no surrogate to relax"
        if self.search_for == "draws":
            return _no_draws(plan)
        if self.search_for != "input" and plan.encoding.name == "direct":
            return (
                "encoding 'direct' has no spikes to search for: the train is the input at every "
                "step; use search_for 'input'"
            )
        return ""

    def view(self, plan: RoundPlan, *, n_inputs: int) -> InputView:
        """The input, plain or through draws, or the train."""
        if self.search_for == "input":
            return super().view(plan, n_inputs=n_inputs)
        if self.search_for == "draws":
            return draws_view(
                plan.encoding,
                input_shape=plan.model.input_shape,
                batch_size=n_inputs,
                n_draws=self.n_draws,
            )
        return train_view(
            plan.encoding,
            input_shape=plan.model.input_shape,
            batch_size=n_inputs,
            is_binary=self.search_for == "spikes",
        )

    def update(self, steps: LocalSteps, model: ModelSpec, network_of: NetworkOf) -> Update:
        """The victim's values with the first sharpness's derivatives."""
        neuron = replace(model.neuron, sharpness=self.sharpness[0])
        soft = network_of(replace(model, neuron=neuron))

        def relaxed(
            network: Network, params: Params, inputs: Tensor, labels: Tensor
        ) -> dict[str, Tensor]:
            labels = labels.repeat(inputs.shape[1] // labels.shape[0], 1)  # of every draw
            smooth = steps.update(soft, params, inputs, labels)
            exact = steps.update(network, params, inputs.detach(), labels.detach())
            return {name: s + (exact[name] - s).detach() for name, s in smooth.items()}

        return relaxed

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
        """See `Attack`. Each sharpness is a search of its own with its share of the restarts."""
        n_turns = min(len(self.sharpness), budget.restarts)
        if n_turns == 1:
            return super().reconstruct(
                seen, known, rng=rng, budget=budget, progress=progress, network_of=network_of
            )
        parts = [
            replace(self, sharpness=self.sharpness[turn : turn + 1]).reconstruct(
                seen,
                known,
                rng=rng,
                budget=replace(budget, restarts=len(range(turn, budget.restarts, n_turns))),
                progress=partial(tell_part, progress, turn, n_turns),
                network_of=network_of,
            )
            for turn in range(n_turns)
        ]
        return [_joined(answers) for answers in zip(*parts, strict=True)]


def _no_draws(plan: RoundPlan) -> str:
    """Why gradients cannot be averaged over draws, or ""."""
    if plan.encoding.name != "rate":
        return f"encoding {plan.encoding.name!r} draws nothing to average over; search for 'input'"
    if plan.training.local_steps > 1:
        return (
            f"draws are averaged over within one gradient, and the update holds "
            f"{plan.training.local_steps} local steps; search for 'input'"
        )
    return ""


def _joined(answers: Sequence[Reconstruction]) -> Reconstruction:
    """All restarts of one victim; turns in which every restart diverged are left out."""
    parts = [answer for answer in answers if not answer.failed] or answers
    trains = [answer.trains for answer in parts if answer.trains is not None]
    return replace(
        parts[0],
        candidates=np.concatenate([answer.candidates for answer in parts]),
        labels=np.concatenate([answer.labels for answer in parts]),
        losses=np.concatenate([answer.losses for answer in parts]),
        loss_curves=np.concatenate([answer.loss_curves for answer in parts]),
        duration_s=sum(answer.duration_s for answer in answers),
        trains=np.concatenate(trains) if trains else None,
    )
