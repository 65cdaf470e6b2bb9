"""The facts that rooms hand to each other: frozen, keyword-only, numpy only.

Every record carries a `Ticket`, the key on which energy and leakage are joined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np

from fedcore.errors import ConfigError, KnowledgeError
from fedcore.plan import NeuronSpec, RoundPlan

__all__ = [
    "Knowledge",
    "LeakageScore",
    "Missing",
    "Observation",
    "Reconstruction",
    "TensorMap",
    "ThreatModel",
    "Ticket",
    "Update",
    "check_id",
]

TensorMap = Mapping[str, np.ndarray]
"""Tensors by parameter name; iteration order is the model's."""

_ID = re.compile(r"[a-z0-9-]{1,63}")


def check_id(value: str, *, what: str) -> str:
    """Return an identifier that is safe in paths, certificates and pages.

    Raises:
        ConfigError: it does not match `[a-z0-9-]{1,63}`.
    """
    if not _ID.fullmatch(value):
        raise ConfigError(f"{what} {value!r} must match [a-z0-9-]{{1,63}}")
    return value


@dataclass(frozen=True, kw_only=True, order=True)
class Ticket:
    """Names one client's part in one round of one run."""

    run_id: str
    round: int
    client_id: str

    def __post_init__(self) -> None:
        check_id(self.run_id, what="run id")
        check_id(self.client_id, what="client id")
        if self.round < 0:
            raise ConfigError(f"a round is not negative; got {self.round}")

    def __str__(self) -> str:
        return f"{self.run_id}/{self.round}/{self.client_id}"


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A value that could not be had, and why. Plots show a gap; means say how many were missing."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a client computed, before the codec makes bytes of it.

    Attributes:
        kind: "gradient" (of the mean loss, one batch) or "delta" (new minus old weights).
        tensors: by parameter name, in the shapes of the weights.
        n_examples: distinct examples it rests on; its weight in the mean.
        plan_digest: of the plan it answers.
    """

    kind: str
    tensors: TensorMap
    n_examples: int
    plan_digest: str


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """What the attacker of an experiment may know, capability by capability.

    The tap always shows the update's values, the global weights and the round's plan; what of
    these an attacker may be denied is a capability, too. The letters are those of Carletti et al.,
    "SoK: Gradient Inversion Attacks in Federated Learning" (USENIX Security 2025).

    Attributes:
        labels: the true labels of each victim batch, sorted.
        step_order: the local step of each granted label or encoded input.
        encoded_input: the encoding's actual draw (input spikes), i.e. the client's secret draw.
        batch_statistics: mean and variance of what each normalising layer receives of each victim
            batch, all its steps together, at the round's weights.
        defence_settings: names and options of the client's defences, which the plan holds.
        auxiliary_data: examples of the same distribution, disjoint from every victim.
        n_examples: how many distinct examples an update declares; else as many as the plan asks
            for are assumed.
        surrogate: shape and sharpness of the spike's pseudo-derivative, which the plan holds; else
            the defaults of `NeuronSpec` are assumed.

    Raises:
        ConfigError: a step order is granted, and nothing that has one.
    """

    labels: bool = False
    step_order: bool = False
    encoded_input: bool = False
    batch_statistics: bool = False
    defence_settings: bool = False
    auxiliary_data: bool = False
    n_examples: bool = True
    surrogate: bool = True

    def __post_init__(self) -> None:
        if self.step_order and not (self.labels or self.encoded_input):
            raise ConfigError(
                "step_order tells the steps of granted labels or encoded inputs; "
                "grant labels or encoded_input, too"
            )

    @property
    def letter(self) -> str:
        """The SoK's letter: C knows the training, D has data too, E has client statistics too."""
        if self.labels or self.encoded_input or self.batch_statistics:
            return "E"
        if self.auxiliary_data:
            return "D"
        return "C"

    @property
    def grants(self) -> tuple[str, ...]:
        """The granted capabilities, in the order of the fields."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name))

    def shown(self, plan: RoundPlan) -> RoundPlan:
        """A plan as the tap shows it: what is withheld is emptied, or has its default value."""
        defences = plan.defences if self.defence_settings else ()
        neuron = plan.model.neuron
        if not self.surrogate:
            neuron = replace(neuron, surrogate=NeuronSpec.surrogate, sharpness=NeuronSpec.sharpness)
        return replace(plan, defences=defences, model=replace(plan.model, neuron=neuron))


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One update as the attacker sees it: exactly what crossed the wire, decoded.

    Attributes:
        ticket: whose update it is.
        plan: the round's plan, as far as the threat model shows it.
        weights: the global model that the update was computed from.
        tensors: the update after the codec, in the weights' shapes.
        kind: "gradient" or "delta".
        n_examples: the weight that the update declares, or what is assumed where that is withheld.
        sha256: of the received bytes; joins it with the sealed truth.
        n_bytes: their number.
    """

    ticket: Ticket
    plan: RoundPlan
    weights: TensorMap
    tensors: TensorMap
    kind: str
    n_examples: int
    sha256: str
    n_bytes: int


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What the attacker was told about one observation. A field not granted is None.

    Attributes:
        labels: true labels, int64 [batch], sorted, step after step where the order is granted.
        step_order: the local step of each, int64 [batch], ascending; the order within a step is
            never told.
        encoded_input: the client's input after encoding, [time, batch, feature...]; where labels
            are granted, too, in their order.
        batch_statistics: by name, [channel]; see `fedcore.nn.functional.batch_statistics`.
        auxiliary_inputs: disjoint examples in [0, 1], [example, feature...].
        auxiliary_labels: their labels, int64 [example].
    """

    labels: np.ndarray | None = None
    step_order: np.ndarray | None = None
    encoded_input: np.ndarray | None = None
    batch_statistics: TensorMap | None = None
    auxiliary_inputs: np.ndarray | None = None
    auxiliary_labels: np.ndarray | None = None

    def need(self, name: str) -> np.ndarray:
        """Return a granted array.

        Raises:
            KnowledgeError: the threat model does not grant it.
        """
        value: np.ndarray | None = getattr(self, name)
        if value is None:
            raise KnowledgeError(f"the threat model does not grant {name!r}")
        return value


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An attack's answer for one observation: every restart, and the one the attacker chose.

    Attributes:
        ticket: whose data it claims to show.
        sha256: of the bytes it was rebuilt from.
        attack: the attack's registered name.
        candidates: in [0, 1], [restart, batch, feature...].
        labels: guessed (or granted) labels, int64 [restart, batch].
        losses: the attacker's own objective at each candidate, [restart]; lower is better.
        loss_curves: the objective over iterations, [restart, recorded step].
        n_iterations: gradient evaluations of the objective per restart.
        duration_s: wall time of the batched call, divided by its number of victims.
        knowledge: the capabilities that were used.
        labels_from: where the labels come from: "granted", "joint" (searched for), "rule" (read
            from the gradient of one example) or a label estimator's name; "" where it is not said.
        failed: why there is no candidate, or "".
        trains: what the attack says that the network received, [restart, time, batch, feature...];
            None where it only looks for the raw input.
        certificate: what the attacker can say for its answer without the truth, by name
            ("rank", "residual"); the attack's docstring says what it proves and what not.
    """

    ticket: Ticket
    sha256: str
    attack: str
    candidates: np.ndarray
    labels: np.ndarray
    losses: np.ndarray
    loss_curves: np.ndarray
    n_iterations: int
    duration_s: float
    knowledge: tuple[str, ...] = ()
    labels_from: str = ""
    failed: str = ""
    trains: np.ndarray | None = None
    certificate: Mapping[str, float] = field(default_factory=dict)

    @property
    def chosen(self) -> int:
        """Index of the restart with the lowest own loss; never chosen by the truth."""
        return int(np.nanargmin(self.losses))


@dataclass(frozen=True, kw_only=True)
class LeakageScore:
    """One metric for one victim, beside the scores that anybody gets without the update.

    Attributes:
        metric: registered name, e.g. "psnr".
        value: the attacker's chosen candidate against the truth.
        oracle: the best restart by truth; the gap to `value` is the attacker's selection loss.
        baselines: score by baseline name ("noise", "mean-image", "class-mean").
        restarts: the score of every restart; empty where there is nothing to score.
    """

    ticket: Ticket
    attack: str
    metric: str
    value: float | Missing
    oracle: float | Missing
    baselines: Mapping[str, float | Missing] = field(default_factory=dict)
    restarts: tuple[float | Missing, ...] = ()
