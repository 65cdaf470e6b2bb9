"""The tap, offline: the same events and observations from a run folder's store and journal.

Of the store (schema version 2, documented in `aggregator.records`) this reads the columns of
`updates` that name an upload, the plans' bytes, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from attacker.observations import AllOver, Artefacts, Event, RunOver, Seen, observe
from fedcore.config import Experiment
from fedcore.errors import RunError
from fedcore.layout import RunFolder
from fedcore.types import Ticket
from fedcore.wire.messages import UploadHeader, plan_from_bytes, plan_to_bytes

__all__ = ["is_finished", "replay"]

_SCHEMA_VERSION = 2


def replay(
    run: RunFolder,
    experiment: Experiment,
    *,
    wants: Callable[[Ticket], bool],
    as_sent: bool = False,
) -> Iterator[Event]:
    """All updates that the run has accepted so far, arm by arm, as the tap would show them.

    Args:
        run: its folder.
        experiment: of the run.
        wants: which updates to read.
        as_sent: show whole plans, as the clients got them: for the judge.

    Raises:
        RunError: the folder holds no store, or a file of it is missing or altered.
    """
    artefacts = Artefacts(lambda sha256: _read(run.artefacts / sha256))
    with _store(run) as store:
        for arm in experiment.arms:
            run_id = experiment.run_id(arm)
            for header in _headers(store, run_id):
                observation = None
                if wants(header.ticket):
                    blob = _read(run.journal / header.sha256)
                    if hashlib.sha256(blob).hexdigest() != header.sha256:
                        raise RunError(f"{run.journal / header.sha256}: the bytes were altered")
                    plan = _plan(store, header)
                    if not as_sent:
                        plan = plan_to_bytes(arm.threat.shown(plan_from_bytes(plan)[0]))
                    observation = observe(header, plan=plan, blob=blob, artefacts=artefacts)
                yield Seen(ticket=header.ticket, observation=observation)
            yield RunOver(run_id=run_id)
    yield AllOver()


def is_finished(run: RunFolder, experiment: Experiment) -> bool:
    """Whether the folder holds all that its tap would ever show."""
    if not run.store_file.exists():
        return False
    with _store(run) as store:
        rows = store.execute("SELECT run_id FROM runs WHERE finished_wall_ns IS NOT NULL")
        finished = {row["run_id"] for row in rows}
    return finished >= {experiment.run_id(arm) for arm in experiment.arms}


@contextlib.contextmanager
def _store(run: RunFolder) -> Iterator[sqlite3.Connection]:
    try:
        store = sqlite3.connect(f"{run.store_file.resolve().as_uri()}?mode=ro", uri=True)
        with contextlib.closing(store):
            version = store.execute("PRAGMA user_version").fetchone()[0]
            if version != _SCHEMA_VERSION:
                raise RunError(
                    f"{run.store_file}: store schema {version}, this version of leakwatt reads "
                    f"{_SCHEMA_VERSION}; use the version that wrote it"
                )
            store.row_factory = sqlite3.Row
            yield store
    except sqlite3.Error as error:
        raise RunError(
            f"{run.store_file}: cannot be read ({error}); has the run started?"
        ) from error


def _headers(store: sqlite3.Connection, run_id: str) -> list[UploadHeader]:
    rows = store.execute(
        "SELECT round, client_id, attempt, plan_digest, n_bytes, sha256 FROM updates "
        "WHERE run_id = ? ORDER BY seq",
        (run_id,),
    )
    return [
        UploadHeader(
            ticket=Ticket(run_id=run_id, round=row["round"], client_id=row["client_id"]),
            attempt=row["attempt"],
            plan_digest=row["plan_digest"],
            n_bytes=row["n_bytes"],
            sha256=row["sha256"],
        )
        for row in rows
    ]


def _plan(store: sqlite3.Connection, header: UploadHeader) -> bytes:
    row = store.execute(
        "SELECT plan FROM plans WHERE run_id = ? AND round = ?",
        (header.ticket.run_id, header.ticket.round),
    ).fetchone()
    if row is None:
        raise RunError(f"{header.ticket}: the store holds an update without its plan")
    return bytes(row["plan"])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; the run folder is incomplete") from error
