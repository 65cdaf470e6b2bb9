"""One client's part in a federation: take an order, answer it, tell what the answer cost.

Everything that must stay private is drawn from the client's secret, by run and round, so that
the same order gives the same bytes after any restart, and nobody else can recompute the draws.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from edge_client.artefacts import ArtefactCache, checked
from edge_client.backends.base import Backend
from edge_client.rpc import Link, Order, Overtaken
from edge_client.vault import Truth, Vault
from fedcore.cohort import Cohort, PairSecrets
from fedcore.conditions import Conditions
from fedcore.data.encodings import encode
from fedcore.data.shards import Shard
from fedcore.defences.base import chain
from fedcore.defences.noise import NoiseSource, SystemNoise
from fedcore.devices import Deployment
from fedcore.energy import (
    DIVERGED,
    Baseline,
    Evaluation,
    Phase,
    PhaseReport,
    Surroundings,
    WindowRecord,
)
from fedcore.errors import ConfigError, UpdateError
from fedcore.operations import LayerCount
from fedcore.plan import RoundPlan, Training
from fedcore.seeds import ClientSecret
from fedcore.tensors import unpack_weights
from fedcore.types import Missing, Ticket, Update
from fedcore.update_blob import pack_update
from fedcore.wire.messages import UploadHeader
from hardware.conditions import read_conditions
from hardware.window import Recorder, Window, measured

__all__ = ["Client", "choose_batches"]

log = logging.getLogger(__name__)

_EVALUATION_BATCH = 256  # bounds memory, not the result
_COUNTED_EXAMPLES = 16
_PROFILED_EXAMPLES = 16  # a simulated chip takes a second for each


def _ignore(_: PhaseReport) -> None:
    """Nobody watches."""


@dataclass(kw_only=True)
class _Work:
    """What was computed for one plan: kept, so that being asked again costs a resend only."""

    plan_digest: str
    conditions: Conditions
    body: bytes = field(default=b"", repr=False)
    sha256: str = ""
    evaluation: Evaluation | None = None
    operations: tuple[LayerCount, ...] | Missing | None = None
    deployments: tuple[Deployment, ...] = ()
    phases: list[WindowRecord] = field(default_factory=list)
    windows: list[WindowRecord] = field(default_factory=list)


@dataclass(kw_only=True)
class Client:
    """A client and all that it works with.

    Attributes:
        name: its id, as in its certificate.
        card_digest: of the machine card in the handshake.
        peers: what it shares with each other client; None where no plan asks for it.
        baseline_s: how long to measure the idle power, before the first round and after the last;
            0 for not at all.
        artefacts: keeps the graphs of plans.
        conditions: tells how hot and how fast the machine is.
        on_report: is handed every report that was sent.
    """

    name: str
    link: Link
    shard: Shard
    secret: ClientSecret
    vault: Vault
    backend: Backend
    recorder: Recorder
    card_digest: str
    peers: PairSecrets | None = None
    baseline_s: float = 0.0
    artefacts: ArtefactCache = field(default_factory=lambda: ArtefactCache(None))
    conditions: Callable[[], Conditions] = read_conditions
    on_report: Callable[[PhaseReport], None] = _ignore
    _baselines: list[Baseline] = field(default_factory=list, init=False)
    _work: _Work | None = field(default=None, init=False)
    _since_report: Window = field(init=False)

    def run(self) -> None:
        """Take part until the aggregator says that every run is finished.

        Raises:
            HandshakeError: the aggregator refuses this client.
            StorageError: a batch's truth could not be sealed; its update was not sent.
        """
        self._measure_idling()
        self._since_report = self.recorder.begin("run")
        while True:
            phases: list[WindowRecord] = []
            with measured(self.recorder, Phase.IDLE, phases):
                order = self.link.next_order()
            if order is None:
                return
            where = {"run": order.plan.run_id, "round": order.plan.round}
            try:
                self.take_part(order, phases)
            except Overtaken as reason:
                log.info("dropped", extra={**where, "why": str(reason)})
            except UpdateError as refusal:
                log.warning("refused", extra={**where, "why": str(refusal)})

    def take_part(self, order: Order, phases: list[WindowRecord]) -> None:
        """Answer one order: compute, seal, submit, report.

        Args:
            order: its plan, and perhaps its weights.
            phases: what the waiting for this order cost; becomes part of the report.

        Raises:
            Overtaken: the round went on without this answer.
            UpdateError: admission refused it.
        """
        rounds: list[WindowRecord] = []
        with measured(self.recorder, "round", rounds):
            if self._work is None or self._work.plan_digest != order.plan_digest:
                self._work = None  # before a large model is loaded beside the old update
                self._work = self._compute(order, phases)
            else:
                self._work.phases.extend(phases)
            if order.plan.train:
                self._submit(order, self._work)
        self._work.windows += rounds
        if not order.plan.train:  # the last round only evaluates
            self._work.operations = self._count(order.plan)
            self._measure_idling()
        self._report(order, self._work)

    def _compute(self, order: Order, phases: list[WindowRecord]) -> _Work:
        """From the global weights to the bytes of the answer, whose truth is sealed by then."""
        plan = order.plan
        work = _Work(plan_digest=order.plan_digest, conditions=self.conditions(), phases=phases)
        with self._phase(Phase.RECEIVE, order, work):
            self.backend.load(plan, self._weights(order), fetch=partial(self._artefact, order))
        if plan.evaluate:
            with self._phase(Phase.EVALUATE, order, work):
                work.evaluation = self._evaluate(plan)
        if plan.evaluate and self.backend.deploys:
            with self._phase(Phase.PROFILE, order, work):
                work.deployments = self._profile(plan)
        if not plan.train:
            return work

        with self._phase(Phase.ENCODE, order, work):
            batches = choose_batches(
                len(self.shard.labels), training=plan.training, rng=self._stream("batch", plan)
            )
            inputs = [self.shard.inputs[batch] for batch in batches]
            labels = [self.shard.labels[batch] for batch in batches]
            rng = self._stream("encode", plan)
            spikes = [encode(plan.encoding, step, rng) for step in inputs]
        with self._phase(Phase.SEAL, order, work):
            truth = Truth.copy_of(inputs=inputs, labels=labels, encoded=spikes)
        with self._phase(Phase.TRAIN, order, work):
            tensors = self.backend.train(spikes, labels, noise=self._noise("model", plan))
        with self._phase(Phase.DEFEND, order, work):
            defences = chain(plan.defences)
            defended = defences.update(tensors, self._noise("defence", plan))
            if "hidden" in defences.hooks:
                defended = defences.hidden(defended, self._cohort(plan))
        with self._phase(Phase.SUBMIT, order, work):
            update = Update(
                kind=plan.training.update,
                tensors=defended,
                n_examples=len(np.unique(np.concatenate(batches))),
                plan_digest=order.plan_digest,
            )
            work.body = pack_update(update, codec=plan.codec, client_id=self.name)
            work.sha256 = hashlib.sha256(work.body).hexdigest()
        with self._phase(Phase.SEAL, order, work):
            self.vault.seal(truth, ticket=self._ticket(plan), sha256=work.sha256)
        return work

    def _submit(self, order: Order, work: _Work) -> None:
        header = UploadHeader(
            ticket=self._ticket(order.plan),
            attempt=order.attempt,
            plan_digest=work.plan_digest,
            n_bytes=len(work.body),
            sha256=work.sha256,
        )
        with self._phase(Phase.SUBMIT, order, work):
            already_had_it = self.link.upload(order, header, work.body)
        log.info(
            "update accepted",
            extra={
                "run": order.plan.run_id,
                "round": order.plan.round,
                "bytes": len(work.body),
                "sha256": work.sha256,
                "again": already_had_it,
            },
        )

    def _report(self, order: Order, work: _Work) -> None:
        work.windows.append(self.recorder.end(self._since_report))
        self._since_report = self.recorder.begin("run")
        clock = self.link.clock_offset()
        report = PhaseReport(
            ticket=self._ticket(order.plan),
            attempt=order.attempt,
            phases=tuple(record.as_phase() for record in work.phases),
            evaluation=work.evaluation,
            clock_offset_s=clock.offset_s,
            clock_uncertainty_s=clock.uncertainty_s,
            machine_card=self.card_digest,
            surroundings=Surroundings(
                start=work.conditions,
                end=self.conditions(),
                baselines=tuple(self._baselines),
                operations=work.operations,
                deployments=work.deployments,
                windows=tuple(work.windows),
            ),
        )
        self.link.report(report)
        self.on_report(report)
        self._baselines.clear()

    def _count(self, plan: RoundPlan) -> tuple[LayerCount, ...] | Missing:
        """Of held-out examples, since what a network does depends on what it is shown."""
        rng = self._stream("count", plan)
        some = self.shard.eval_inputs[:_COUNTED_EXAMPLES]
        return self.backend.count(encode(plan.encoding, some, rng))

    def _measure_idling(self) -> None:
        if self.baseline_s:
            self._baselines.append(self.recorder.baseline(self.baseline_s))

    @contextlib.contextmanager
    def _phase(self, phase: Phase, order: Order, work: _Work) -> Iterator[None]:
        """Meter a phase of work that is still wanted."""
        self.link.require_wanted(order)
        with measured(self.recorder, phase, work.phases):
            yield

    def _weights(self, order: Order) -> dict[str, np.ndarray]:
        sha256 = order.plan.weights
        blob = order.inline_weights or self.link.download(order, sha256)
        return unpack_weights(checked(blob, sha256=sha256, what="weights"))

    def _artefact(self, order: Order, sha256: str) -> bytes:
        """What else the plan names."""
        return self.artefacts.get(sha256, partial(self.link.download, order))

    def _evaluate(self, plan: RoundPlan) -> Evaluation:
        """Accuracy of the round's incoming weights on the held-out slice of the shard."""
        rng = self._stream("evaluate", plan)
        n_examples = len(self.shard.eval_labels)
        parts = []
        for start in range(0, n_examples, _EVALUATION_BATCH):
            piece = slice(start, start + _EVALUATION_BATCH)
            spikes = encode(plan.encoding, self.shard.eval_inputs[piece], rng)
            parts.append(self.backend.evaluate(spikes, self.shard.eval_labels[piece]))
        losses = [p.mean_loss * p.n_examples for p in parts if not isinstance(p.mean_loss, Missing)]
        return Evaluation(
            n_correct=sum(part.n_correct for part in parts),
            n_examples=n_examples,
            mean_loss=math.fsum(losses) / n_examples if len(losses) == len(parts) else DIVERGED,
        )

    def _profile(self, plan: RoundPlan) -> tuple[Deployment, ...]:
        """Of the round's incoming weights, on some held-out examples."""
        rng = self._stream("profile", plan)
        some = slice(_PROFILED_EXAMPLES)
        spikes = encode(plan.encoding, self.shard.eval_inputs[some], rng)
        return self.backend.profile(spikes, self.shard.eval_labels[some])

    def _stream(self, purpose: str, plan: RoundPlan) -> np.random.Generator:
        """Labelled by the experiment, not the run: all arms see the same batches and draws."""
        return self.secret.stream(purpose, plan.experiment_digest, plan.round)

    def _noise(self, purpose: str, plan: RoundPlan) -> NoiseSource:
        """Labelled by the run: two arms under the same noise would cancel it."""
        if plan.reproducible:
            return self.secret.stream(purpose, plan.run_id, plan.round)
        return SystemNoise()

    def _cohort(self, plan: RoundPlan) -> Cohort:
        if self.peers is None:
            raise ConfigError(
                "the plan hides updates among those of the other clients, but this client shares "
                "no secrets with them; start it with --peers FILE"
            )
        return self.peers.of_round(plan.run_id, plan.round)

    def _ticket(self, plan: RoundPlan) -> Ticket:
        return Ticket(run_id=plan.run_id, round=plan.round, client_id=self.name)


def choose_batches(
    n_examples: int, *, training: Training, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw the examples of each local step: epochs in random order, cut into batches.

    An epoch's last examples that do not fill a batch are left out of it. A shard smaller than a
    batch is one batch.

    Args:
        n_examples: in the shard.
        training: batch size and local steps.
        rng: the client's secret "batch" stream.

    Returns:
        One array of distinct indices per local step.
    """
    size = min(training.batch_size, n_examples)
    batches: list[np.ndarray] = []
    while len(batches) < training.local_steps:
        epoch = rng.permutation(n_examples)
        batches += [epoch[i : i + size] for i in range(0, n_examples - size + 1, size)]
    return batches[: training.local_steps]
