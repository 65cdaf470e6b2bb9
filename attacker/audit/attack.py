"""One attack, by name, on one update."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget, Progress
from attacker.attacks.matching import GradientMatching
from attacker.attacks.peeling import Peeling
from attacker.attacks.r_gap import RGap
from attacker.attacks.relaxed import RelaxedMatching
from attacker.audit.inspection import first_line
from attacker.audit.model import Model
from attacker.audit.sent import Sent, Source
from attacker.devices import computing_on
from attacker.gradients import batch_size_of
from fedcore.errors import AttackError, ConfigError
from fedcore.nn.arrays import to_tensor, to_tensors
from fedcore.nn.functional import gradient
from fedcore.plan import Choice, RoundPlan, Training
from fedcore.seeds import stream
from fedcore.strict import build
from fedcore.types import Knowledge, Observation, Reconstruction, TensorMap, Ticket

__all__ = ["Attack"]

_TICKET = Ticket(run_id="audit", round=0, client_id="client")
_NOTHING = Knowledge()


def _silent(done: int, total: int, losses: np.ndarray) -> None:
    """Tells nobody."""


class Attack:
    """An attack with its options and what it may spend.

    Args:
        name: registered (`leakwatt plugins attack`).
        restarts: independent starts.
        iterations: gradient evaluations per start.
        seed: of the starts; the same seed gives the same answer.
        options: of the attack, by keyword.

    Raises:
        ConfigError: an unknown name or option; the message names the nearest one.
    """

    def __init__(
        self,
        name: str,
        *,
        restarts: int = 4,
        iterations: int = 1000,
        seed: int = 0,
        **options: Any,
    ) -> None:
        for what, value in (("restarts", restarts), ("iterations", iterations)):
            if value < 1:
                raise ConfigError(f"{what} must be >= 1; got {value}")
        self._attack = build(ATTACKS, Choice(name=name, options=options))
        self._budget = Budget(restarts=restarts, iterations=iterations)
        self._seed = seed
        self._changes_neurons = "sharpness" in options or isinstance(self._attack, RelaxedMatching)

    def run(
        self,
        update: Sent | Source,
        model: Model,
        knowledge: Knowledge = _NOTHING,
        *,
        device: str = "cpu",
        progress: Progress = _silent,
    ) -> Reconstruction:
        """Rebuild the inputs behind an update.

        Args:
            update: what the client sent; a bare `Source` is the gradient of one example.
            model: that the client had.
            knowledge: what else the attacker is told; nothing, unless said.
            device: to compute on, see `attacker.devices`.
            progress: told now and then.

        Returns:
            Candidates [restart, example, feature...], labels [restart, example], own losses
            [restart] and certificate; `chosen` is the restart of the lowest own loss.

        Raises:
            AttackError: this attack cannot be run on this update or model; the message says why.
            KnowledgeError: it needs what is not told.
            ConfigError: update and model do not fit, or there is no such device here.
        """
        sent = update if isinstance(update, Sent) else Sent(update)
        seen = _observation(sent, model)
        told = _arrays(knowledge, seen)
        with computing_on(device):
            self._check(model, n_examples=sent.n_examples)
            (answer,) = self._attack.reconstruct(
                [seen],
                [told],
                rng=stream(self._seed, "attack"),
                budget=self._budget,
                progress=progress,
                network_of=model.network_of,
            )
        if answer.failed:
            raise AttackError(answer.failed)
        return answer

    def _check(self, model: Model, *, n_examples: int) -> None:
        """Refuse what this attack cannot do with a module, before the module says so itself."""
        if model.is_own and model.spec.spiking and self._changes_neurons:
            raise AttackError(
                "a sharpness of the attacker's own needs neurons of Leakwatt's; those of "
                f"{model.spec.name} belong to another library and keep their surrogate"
            )
        if model.is_own and isinstance(self._attack, RGap):
            raise AttackError(
                "R-GAP goes back through a list of layers and activations, which only "
                "Leakwatt's own models are; a module's forward may do anything between its layers"
            )
        if isinstance(self._attack, GradientMatching):
            _check_twice_differentiable(model, n_examples=n_examples)
        elif isinstance(self._attack, Peeling) and model.mixes_examples:
            raise AttackError(
                "the module mixes the examples of a batch (BatchNorm in training mode?), so that "
                "the features of one cannot be searched for alone; call eval() if clients did"
            )


def _observation(sent: Sent, model: Model) -> Observation:
    update = model.update_in(sent)
    training = Training(
        update="gradient" if sent.kind == "gradient" else "delta",
        batch_size=sent.n_examples if sent.batch_size is None else sent.batch_size,
        local_steps=sent.local_steps,
        learning_rate=1.0 if sent.learning_rate is None else sent.learning_rate,
    )
    return Observation(
        ticket=_TICKET,
        plan=RoundPlan(
            run_id=_TICKET.run_id,
            round=_TICKET.round,
            experiment_digest="",
            model=model.spec,
            weights="",
            encoding=model.encoding,
            training=training,
        ),
        weights=model.weights,
        tensors=update,
        kind=training.update,
        n_examples=sent.n_examples,
        sha256=_digest(update),
        n_bytes=sum(tensor.nbytes for tensor in update.values()),
    )


def _digest(tensors: TensorMap) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.tobytes())
    return digest.hexdigest()


def _arrays(knowledge: Knowledge, seen: Observation) -> Knowledge:
    """Lists as arrays.

    Raises:
        ConfigError: a label is no class, or there are more or fewer than examples in the steps.
    """
    if knowledge.labels is None:
        return knowledge
    labels = np.asarray(knowledge.labels, dtype=np.int64).reshape(-1)
    n_classes, n_steps = seen.plan.model.n_classes, seen.plan.training.local_steps
    if not ((labels >= 0) & (labels < n_classes)).all():
        raise ConfigError(f"labels: got {labels.tolist()}, expected classes 0 to {n_classes - 1}")
    expected = batch_size_of(seen) * n_steps
    if len(labels) != expected:
        raise ConfigError(
            f"labels: got {len(labels)}, expected {expected} (batches of {batch_size_of(seen)}, "
            f"local steps: {n_steps}); give as many, or correct the number of examples"
        )
    return replace(knowledge, labels=labels)


def _check_twice_differentiable(model: Model, *, n_examples: int) -> None:
    """Try on a copy, for a failure may leave a stranger's module in disorder.

    Raises:
        AttackError: torch.func does not differentiate this module's gradient.
    """
    network = copy.deepcopy(model.network_of(model.spec))
    weights = to_tensors(model.weights)
    labels = torch.zeros(n_examples, dtype=torch.int64)

    def length(inputs: torch.Tensor) -> torch.Tensor:
        slopes = gradient(network, weights, inputs, labels, create_graph=True)
        return torch.stack([slope.square().sum() for slope in slopes.values()]).sum()

    shape = (2, model.encoding.n_steps, n_examples, *model.spec.input_shape)
    rows = to_tensor(stream(0, "inspection").random(shape, dtype=np.float32))
    try:
        torch.func.vmap(torch.func.grad(length))(rows)
    except Exception as error:  # a stranger's code may raise anything
        raise AttackError(
            "torch.func, by which this attack differentiates gradients, does not take this module "
            f"('peeling' needs its first derivatives only): {first_line(error)}"
        ) from error
