"""The aggregator: serves the arms of one experiment, one after the other, to its clients.

    for every arm:  for every round:  push the plan -> accept updates -> close -> fold -> keep

Rows and blobs are kept before anybody is answered, so that a killed aggregator goes on where it
was. Everything here runs on one event loop; only large blobs and the fold leave it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aggregator.admission import Admission, OpenRound
from aggregator.folding import Folder, Head
from aggregator.journal import BlobFolder
from aggregator.opening import open_round
from aggregator.rounds import (
    Answered,
    Close,
    Event,
    Extend,
    Joined,
    Lost,
    Opened,
    Push,
    RoundMachine,
    Stop,
    Tick,
)
from aggregator.sessions import Farewell, RoundClosed, RoundStart, Session, Welcome
from aggregator.store import Store
from aggregator.tap import Bell, Tap
from aggregator.uploads import IncomingUpload, off_the_loop
from fedcore.config import Arm
from fedcore.energy import PhaseReport
from fedcore.errors import (
    FedcoreError,
    HandshakeError,
    IdentityError,
    RunError,
    StorageError,
    UpdateError,
)
from fedcore.health import Pulse
from fedcore.identity import Identity, Role
from fedcore.layout import RunFolder
from fedcore.types import Ticket
from fedcore.wire.blobs import Piece
from fedcore.wire.messages import Hello, UploadHeader

__all__ = ["Aggregator", "ServerOptions"]

log = logging.getLogger(__name__)

_LOST_AFTER_HEARTBEATS = 3
_TICK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How one aggregator process behaves; nothing here changes a result.

    Attributes:
        heartbeat_s: asked of the clients.
        grace_s: how long to wait at the end for clients and watchers that do not move.
        survives_power_loss: whether each acceptance is forced to the disk.
    """

    heartbeat_s: float = 5.0
    grace_s: float = 10.0
    survives_power_loss: bool = False


class Aggregator:
    """All runs of one run folder.

    Args:
        run: prepared by testbed: experiment, initial weights.
        options: of this process.
        pulse: beats while rounds are served.

    Raises:
        ConfigError: this is no prepared run folder, or it names unknown plugins.
        RunError: another aggregator serves it.
        StorageError: its disk is full or read-only.
    """

    def __init__(self, run: RunFolder, *, options: ServerOptions, pulse: Pulse) -> None:
        self._options = options
        self._pulse = pulse
        self.experiment = run.read_experiment()
        # First, because it turns a second aggregator away, and blob folders clear up.
        self.store = Store(run.store_file, survives_power_loss=options.survives_power_loss)
        artefacts = BlobFolder(run.artefacts, survives_power_loss=options.survives_power_loss)
        self._journal = BlobFolder(run.journal, survives_power_loss=options.survives_power_loss)
        self._admission = Admission(self.experiment, self.store)
        self._folder = Folder(run, artefacts=artefacts, journal=self._journal)
        self._artefacts = artefacts
        self._bell = Bell()
        self.tap = Tap(self.experiment, store=self.store, journal=self._journal, bell=self._bell)
        self._sessions: dict[str, Session] = {}
        self._went_home: set[str] = set()
        self._machine: RoundMachine | None = None
        self._open: OpenRound | None = None
        self._n_accepted = 0  # by this process
        self._decision: asyncio.Future[Close] | None = None
        self._failure: FedcoreError | None = None
        self._farewell: Farewell | None = None

    def close(self) -> None:
        """Let go of the run folder."""
        self.store.close()

    async def serve_runs(self) -> None:
        """Serve every arm that is not finished.

        Raises:
            RunError: a run cannot go on.
            StorageError: the disk is full.
        """
        ticking = asyncio.create_task(self._tick_for_ever())
        ticking.add_done_callback(self._time_stood_still)
        try:
            for arm in self.experiment.arms:
                if not self.store.is_finished(self.experiment.run_id(arm)):
                    await self._serve_run(arm)
        finally:
            ticking.cancel()

    async def say_farewell(self, *, reason: str, finished: bool) -> None:
        """Send everybody home, and wait until they and the tap's watchers took the last message.

        Who does not move for the grace period is left behind.
        """
        self._farewell = Farewell(reason=reason, finished=finished)
        for session in list(self._sessions.values()):
            session.send(self._farewell)
        seen: object = None
        moved_s = time.monotonic()
        while not self._everybody_left() and time.monotonic() - moved_s < self._options.grace_s:
            progress = (len(self._went_home), self.tap.n_shown, self.tap.n_told_all)
            if progress != seen:
                seen, moved_s = progress, time.monotonic()
            await asyncio.sleep(0.02)

    def join(self, peer: Identity, hello: Hello) -> Session:
        """Take a client in; a second connection of the same client replaces the first.

        Raises:
            UpdateError: the certificate is another's, or the experiment does not know the client.
            HandshakeError: the client lacks a codec that an arm uses.
        """
        self._admission.check_sender(peer, client_id=hello.client_id)
        needed = {arm.codec.name for arm in self.experiment.arms}
        if missing := sorted(needed - set(hello.codecs)):
            raise HandshakeError(
                f"{hello.client_id} does not offer the codec {', '.join(missing)} that the "
                "experiment uses; install the same leakwatt version on both sides"
            )
        if (old := self._sessions.get(hello.client_id)) is not None:
            old.close()
        session = Session(hello.client_id, heard_s=time.monotonic())
        self._sessions[hello.client_id] = session
        session.send(Welcome(heartbeat_s=self._options.heartbeat_s))
        if self._farewell is not None:
            session.send(self._farewell)
            return session
        self.store.greet(hello)
        self._note("client-joined", client=hello.client_id)
        self._feed(Joined(client_id=hello.client_id))
        return session

    def leave(self, session: Session) -> None:
        """A client's stream ended, for whatever reason; harmless to repeat."""
        session.close()
        if session.went_home:
            self._went_home.add(session.client_id)
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]
            if self._farewell is None:
                self._note("client-lost", client=session.client_id)
                self._feed(Lost(client_id=session.client_id))

    async def accept(
        self, peer: Identity, header: UploadHeader, pieces: AsyncIterator[Piece]
    ) -> bool:
        """Take one update in. It is in the journal when this returns.

        Returns:
            Whether the same bytes had been accepted before.

        Raises:
            UpdateError: admission refuses it.
            StorageError: the disk is full; the run stops.
        """
        self._admission.check_sender(peer, client_id=header.ticket.client_id)
        now = self._admission.check_header(header, self._open)
        if now is None:
            return True
        n_accepted = self._n_accepted
        upload = IncomingUpload(header, journal=self._journal)
        try:
            async for piece in pieces:
                upload.add(piece)
            update = await upload.finish(partial(self._admission.check_blob, now=now))
            # From here to the answer nothing else runs. Is all as it was before the blob came?
            moved_on = self._open is not now or self._n_accepted != n_accepted
            if moved_on and self._admission.check_header(header, self._open) is None:
                return True
            upload.keep()
            self.store.accept(header, n_examples=update.n_examples, kind=update.kind)
            self._n_accepted += 1
            self._bell.ring()
            self._feed(Answered(round=header.ticket.round, client_id=header.ticket.client_id))
        except StorageError as error:
            self._fail(error)
            raise
        finally:
            await upload.close()
        return False

    def report(self, peer: Identity, report: PhaseReport) -> bool:
        """Keep what a client's round cost.

        Returns:
            Whether the report was here already.

        Raises:
            UpdateError: it is another client's, or of a round that was never opened.
        """
        ticket = report.ticket
        self._admission.check_sender(peer, client_id=ticket.client_id)
        self._admission.check_report(ticket, attempt=report.attempt)
        is_new = self.store.save_report(report)
        now = self._open
        if now and not now.plan.train and now.plan.run_id == ticket.run_id:
            self._feed(Answered(round=ticket.round, client_id=ticket.client_id))
        return not is_new

    def artefact(self, peer: Identity, sha256: str) -> Path:
        """The file of an artefact that some plan names; journal and vault are out of reach.

        Raises:
            IdentityError: no plan names it, or the role may not download.
        """
        if peer.role not in (Role.CLIENT, Role.ATTACKER):
            raise IdentityError(f"{peer.uri} may not download")
        if not self.store.is_plan_artefact(sha256):
            raise IdentityError(f"no plan names the artefact {sha256!r:.80}")
        return self._artefacts.path(sha256)

    def refused(self, error: FedcoreError, *, peer: str, claimed: str) -> None:
        """Write a refusal into the audit; the run goes on."""
        reason = error.refusal.label if isinstance(error, UpdateError) else _label(error)
        log.warning("refused", extra={"peer": peer, "claimed": claimed, "why": str(error)})
        try:
            self.store.refuse(peer=peer, claimed=claimed, reason=reason, message=str(error))
        except StorageError as full:
            self._fail(full)

    async def _serve_run(self, arm: Arm) -> None:
        run_id = self.experiment.run_id(arm)
        self.store.start_run(run_id, arm=arm.name)
        head = self._folder.head(arm, self.store.rounds(run_id))
        self._note("run-started", run=run_id, round=head.round)
        self._machine = RoundMachine(
            clients=self.experiment.clients_of(arm), schedule=arm.schedule, live=self._sessions
        )
        while head.round <= arm.schedule.rounds:
            head = await self._serve_round(arm, head)
        self.store.finish_run(run_id)
        self._note("run-finished", run=run_id)
        self._bell.ring()

    async def _serve_round(self, arm: Arm, head: Head) -> Head:
        """Open one round, wait until it closes, and return what the next one starts from."""
        with self.store.together():
            now = open_round(
                self.experiment, arm, head, store=self.store, artefacts=self._artefacts
            )
            if self._failure is not None:
                raise self._failure
            run_id, round = now.plan.run_id, now.plan.round
            self._decision = asyncio.get_running_loop().create_future()
            self._open = now
            pushes = self._handle(Opened(round=round, answered=self._answered(now)))
        for session, start in pushes:
            session.send(start)
        close = await self._decision
        accepted = self.store.accepted(run_id, round=round)
        head = await off_the_loop(
            partial(self._folder.fold, arm, head, now, accepted),
            n_bytes=sum(update.n_bytes for update in accepted),
        )
        self.store.close_round(
            run_id, round=round, weights=head.weights, state=head.state, n_accepted=len(accepted)
        )
        log.info("round-closed", extra={"run": run_id, "round": round, "accepted": len(accepted)})
        closed = RoundClosed(run_id=run_id, round=round, accepted=close.answered)
        for session in self._sessions.values():
            session.send(closed)
        return head

    def _answered(self, now: OpenRound) -> frozenset[str]:
        """Who answered the open round before this process started."""
        run_id, round = now.plan.run_id, now.plan.round
        if not now.plan.train:
            return self.store.reporters(run_id, round=round)
        return frozenset(u.ticket.client_id for u in self.store.accepted(run_id, round=round))

    def _feed(self, event: Event) -> None:
        """Hand an event to the round machine, carry out what it says, and send what follows."""
        try:
            for session, start in self._handle(event):
                session.send(start)
        except StorageError as error:
            self._fail(error)

    def _handle(self, event: Event) -> list[tuple[Session, RoundStart]]:
        """The same without sending: what is sent must be kept before."""
        if self._machine is None:
            return []
        pushes = []
        for action in self._machine.handle(event, now_s=time.monotonic()):
            if isinstance(action, Push):
                pushes += self._push(action)
            elif isinstance(action, Close):
                self._open = None
                if self._decision is not None and not self._decision.done():
                    self._decision.set_result(action)
            elif isinstance(action, Extend):
                self._note("deadline-extended", round=action.round, reason=action.reason)
                self.store.refuse(
                    peer="", claimed="deadline", reason="deadline-extended", message=action.reason
                )
            elif isinstance(action, Stop):
                self._fail(RunError(action.reason))
        return pushes

    def _push(self, push: Push) -> list[tuple[Session, RoundStart]]:
        now, session = self._open, self._sessions.get(push.client_id)
        if now is None or session is None:
            return []
        ticket = Ticket(run_id=now.plan.run_id, round=push.round, client_id=push.client_id)
        attempt = self.store.ask(ticket)
        start = RoundStart(plan=now.plan_bytes, weights=now.inline_weights, attempt=attempt)
        return [(session, start)]

    async def _tick_for_ever(self) -> None:
        """Let time pass: deadlines, and clients that fell silent."""
        lost_after_s = _LOST_AFTER_HEARTBEATS * self._options.heartbeat_s
        ticked_s = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = time.monotonic()
            deaf_s, ticked_s = max(0.0, now_s - ticked_s - 2 * _TICK_S), now_s
            for session in list(self._sessions.values()):
                session.heard_s += deaf_s  # a process that was stopped heard nobody
                if now_s - session.heard_s > lost_after_s:
                    self.leave(session)
            self._feed(Tick())
            self._pulse.beat()

    def _time_stood_still(self, ticking: asyncio.Task[None]) -> None:
        """Without ticks no deadline would ever pass: better to stop with a word."""
        if not ticking.cancelled() and (error := ticking.exception()) is not None:
            self._fail(RunError(f"the aggregator's clock stopped: {error}"))

    def _note(self, kind: str, **fields: object) -> None:
        """Log an event and keep it for the report."""
        log.info(kind, extra=fields)
        try:
            self.store.event(kind, **fields)
        except StorageError as error:
            self._fail(error)

    def _fail(self, error: FedcoreError) -> None:
        """Stop serving runs, now or as soon as the running fold is done."""
        self._failure = self._failure or error
        if self._decision is not None and not self._decision.done():
            self._decision.set_exception(error)

    def _everybody_left(self) -> bool:
        if self._farewell is not None and not self._farewell.finished:
            return not self._sessions  # nobody who is away will come for this word
        clients_left = self._went_home >= set(self.experiment.client_ids)
        return clients_left and self.tap.n_told_all > 0 and self.tap.n_watching == 0


def _label(error: FedcoreError) -> str:
    """A refusal's name in the audit where it is no UpdateError: "identity", "handshake", ..."""
    return type(error).__name__.removesuffix("Error").lower()
