"""The tap: accepted updates for the attacker, read back from the journal and never live.

A watcher that is slow, stopped or absent holds nothing up: it has a cursor, and the rounds do not
know of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from aggregator.journal import BlobFolder
from aggregator.records import AcceptedUpdate, StoreReader
from fedcore.config import Arm, Experiment
from fedcore.errors import RunError
from fedcore.wire.messages import UploadHeader, plan_to_bytes

__all__ = ["AllOver", "Bell", "Capture", "RunOver", "Tap", "TapEvent"]


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One accepted update: its header, the plan as the attacker may see it, and its bytes' file."""

    sequence: int
    header: UploadHeader
    plan: bytes
    file: Path


@dataclass(frozen=True, kw_only=True)
class RunOver:
    """Every update of this run was shown."""

    run_id: str


@dataclass(frozen=True, kw_only=True)
class AllOver:
    """Every run is over."""


TapEvent = Capture | RunOver | AllOver


class Bell:
    """Wakes everybody who waits; ringing never waits for anybody."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake all that are waiting now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next ring."""
        await self._event.wait()


class Tap:
    """What the attacker's role may watch.

    Args:
        experiment: its arms in order, and what each grants.
        store: the acceptances.
        journal: their bytes.
        bell: rings when there may be something new.
    """

    def __init__(
        self, experiment: Experiment, *, store: StoreReader, journal: BlobFolder, bell: Bell
    ) -> None:
        self._experiment = experiment
        self._store = store
        self._journal = journal
        self._bell = bell
        self.n_watching = 0
        self.n_shown = 0  # events that watchers took
        self.n_told_all = 0  # watchers that took the last event

    async def watch(self, cursor: int) -> AsyncGenerator[TapEvent, None]:
        """Every accepted update from the cursor on, then whatever comes, until all is over."""
        self.n_watching += 1
        try:
            async for event in self._events(cursor):
                yield event
                self.n_shown += 1
            self.n_told_all += 1
        finally:
            self.n_watching -= 1

    async def _events(self, cursor: int) -> AsyncIterator[TapEvent]:
        for arm in self._experiment.arms:
            run_id = self._experiment.run_id(arm)
            async for update in self._updates(run_id, cursor):
                yield self._capture(arm, update)
            yield RunOver(run_id=run_id)
        yield AllOver()

    async def _updates(self, run_id: str, cursor: int) -> AsyncIterator[AcceptedUpdate]:
        while True:
            found = self._store.updates(run_id, from_seq=cursor, limit=1)
            if found:
                yield found[0]
                cursor = found[0].seq + 1
            elif self._store.is_finished(run_id):
                return
            else:
                await self._bell.wait()

    def _capture(self, arm: Arm, update: AcceptedUpdate) -> Capture:
        ticket = update.ticket
        row = self._store.plan(ticket.run_id, round=ticket.round)
        if row is None:
            raise RunError(f"{ticket}: the store holds an update without its plan")
        return Capture(
            sequence=update.seq,
            header=UploadHeader(
                ticket=ticket,
                attempt=update.attempt,
                plan_digest=update.plan_digest,
                n_bytes=update.n_bytes,
                sha256=update.sha256,
            ),
            plan=plan_to_bytes(arm.threat.shown(row.parsed())),
            file=self._journal.path(update.sha256),
        )
