"""The run's memory: SQLite in WAL mode. `aggregator.records` documents and reads the tables.

Every method is one transaction that is committed when it returns (inside `together`: when that
ends), so that `kill -9` at any moment loses nothing that was answered. With `survives_power_loss`
each commit is forced to the disk, too.
The file appears with all its tables or not at all: readers may look at any moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aggregator.journal import storing, sync_folder
from aggregator.records import SCHEMA_VERSION, StoreReader, check_version
from fedcore.energy import PhaseReport
from fedcore.errors import RunError, StorageError
from fedcore.strict import canonical_json, digest, to_table
from fedcore.types import Missing, Ticket
from fedcore.wire.messages import Hello, UploadHeader

__all__ = ["Store"]

_TABLES = """
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, arm TEXT NOT NULL,
    started_wall_ns INTEGER NOT NULL, finished_wall_ns INTEGER
);
CREATE TABLE plans (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, plan BLOB NOT NULL, digest TEXT NOT NULL,
    weights TEXT NOT NULL, opened_wall_ns INTEGER NOT NULL, PRIMARY KEY (run_id, round)
);
CREATE INDEX plans_weights ON plans (weights);
CREATE TABLE asks (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, client_id TEXT NOT NULL,
    attempt INTEGER NOT NULL, asked_wall_ns INTEGER NOT NULL,
    PRIMARY KEY (run_id, round, client_id, attempt)
);
CREATE TABLE updates (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL, round INTEGER NOT NULL, client_id TEXT NOT NULL,
    attempt INTEGER NOT NULL, plan_digest TEXT NOT NULL, sha256 TEXT NOT NULL UNIQUE,
    n_bytes INTEGER NOT NULL, n_examples INTEGER NOT NULL, kind TEXT NOT NULL,
    received_wall_ns INTEGER NOT NULL, UNIQUE (run_id, round, client_id)
);
CREATE TABLE audit (
    wall_ns INTEGER NOT NULL, peer TEXT NOT NULL, claimed TEXT NOT NULL, reason TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE TABLE reports (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, client_id TEXT NOT NULL,
    attempt INTEGER NOT NULL, clock_offset_s REAL NOT NULL, clock_uncertainty_s REAL NOT NULL,
    machine_card TEXT NOT NULL, surroundings TEXT NOT NULL, received_wall_ns INTEGER NOT NULL,
    PRIMARY KEY (run_id, round, client_id, attempt)
);
CREATE TABLE phases (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, client_id TEXT NOT NULL,
    attempt INTEGER NOT NULL, position INTEGER NOT NULL, phase TEXT NOT NULL,
    start_mono_ns INTEGER NOT NULL, duration_s REAL NOT NULL, cpu_s REAL NOT NULL,
    measured TEXT NOT NULL, modelled TEXT NOT NULL,
    PRIMARY KEY (run_id, round, client_id, attempt, position)
);
CREATE TABLE evaluations (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, client_id TEXT NOT NULL,
    attempt INTEGER NOT NULL, n_correct INTEGER NOT NULL, n_examples INTEGER NOT NULL,
    mean_loss REAL, PRIMARY KEY (run_id, round, client_id, attempt)
);
CREATE TABLE clients (
    client_id TEXT NOT NULL, card TEXT NOT NULL, hello TEXT NOT NULL,
    joined_wall_ns INTEGER NOT NULL, PRIMARY KEY (client_id, card)
);
CREATE TABLE rounds (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, weights TEXT NOT NULL, state TEXT NOT NULL,
    n_accepted INTEGER NOT NULL, opened_wall_ns INTEGER NOT NULL, closed_wall_ns INTEGER NOT NULL,
    PRIMARY KEY (run_id, round)
);
CREATE TABLE events (wall_ns INTEGER NOT NULL, kind TEXT NOT NULL, fields TEXT NOT NULL);
"""


class Store(StoreReader):
    """The one writer of a run's store; only one process at a time may hold it.

    Args:
        path: of the SQLite file; made when missing.
        survives_power_loss: commit with `synchronous = FULL` instead of NORMAL.
        wall_ns: the clock of the time columns.

    Raises:
        RunError: another aggregator holds the run, or a newer Leakwatt wrote the store.
        StorageError: the disk does not take it.
    """

    def __init__(
        self,
        path: Path,
        *,
        survives_power_loss: bool = False,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = path
        self._wall_ns = wall_ns
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RunError(f"{path.parent}: another aggregator is serving this run") from error
        try:
            if not path.exists():
                _create(path)
            self._db = sqlite3.connect(path, isolation_level=None)
        except BaseException:
            self._lock.close()
            raise
        self._db.row_factory = sqlite3.Row
        try:
            self._prepare("FULL" if survives_power_loss else "NORMAL")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Write back the log and let the next process in."""
        self._db.close()
        self._lock.close()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Make one transaction of all calls inside: they are kept together, or none is.

        Nothing may be awaited inside.
        """
        with self._transaction():
            yield

    def start_run(self, run_id: str, *, arm: str) -> None:
        """Note that an arm's run begins; harmless to repeat."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, NULL)", (run_id, arm, self._wall_ns())
            )

    def finish_run(self, run_id: str) -> None:
        """Note that every round of a run is closed."""
        with self._transaction():
            self._db.execute(
                "UPDATE runs SET finished_wall_ns = ? WHERE run_id = ?", (self._wall_ns(), run_id)
            )

    def open_round(
        self, run_id: str, *, round: int, plan: bytes, plan_digest: str, weights: str
    ) -> None:
        """Keep a plan before anybody is asked."""
        self._insert("plans", run_id, round, plan, plan_digest, weights, self._wall_ns())

    def ask(self, ticket: Ticket) -> int:
        """Note that a client is sent its round's plan; return how often it was before."""
        with self._transaction():
            last = self.last_attempt(ticket)
            attempt = 0 if last is None else last + 1
            self._insert_row("asks", *_columns(ticket), attempt, self._wall_ns())
        return attempt

    def accept(self, header: UploadHeader, *, n_examples: int, kind: str) -> None:
        """Keep the fact that an update was accepted; its bytes are in the journal already."""
        self._insert(
            "updates",
            None,
            *_columns(header.ticket),
            header.attempt,
            header.plan_digest,
            header.sha256,
            header.n_bytes,
            n_examples,
            kind,
            self._wall_ns(),
        )

    def refuse(self, *, peer: str, claimed: str, reason: str, message: str) -> None:
        """Add a row to the audit."""
        self._insert("audit", self._wall_ns(), peer, claimed, reason, message)

    def save_report(self, report: PhaseReport) -> bool:
        """Keep a phase report; False if it was here already, which changes nothing."""
        key = (*_columns(report.ticket), report.attempt)
        with self._transaction():
            added = self._db.execute(
                "INSERT OR IGNORE INTO reports VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *key,
                    report.clock_offset_s,
                    report.clock_uncertainty_s,
                    report.machine_card,
                    _json(report.surroundings),
                    self._wall_ns(),
                ),
            ).rowcount
            if not added:
                return False
            for position, record in enumerate(report.phases):
                self._insert_row(
                    "phases",
                    *key,
                    position,
                    record.phase.value,
                    record.start_mono_ns,
                    record.duration_s,
                    record.cpu_s,
                    _json(record.measured),
                    _json(record.modelled),
                )
            if (found := report.evaluation) is not None:
                loss = None if isinstance(found.mean_loss, Missing) else found.mean_loss
                self._insert_row("evaluations", *key, found.n_correct, found.n_examples, loss)
        return True

    def greet(self, hello: Hello) -> None:
        """Keep a client's handshake under its machine card."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO clients VALUES (?, ?, ?, ?)",
                (hello.client_id, digest(hello.machine_card), _json(hello), self._wall_ns()),
            )

    def close_round(
        self, run_id: str, *, round: int, weights: str, state: str, n_accepted: int
    ) -> None:
        """Keep what a round led to; from here on it is never folded again."""
        plan = self.plan(run_id, round=round)
        opened_wall_ns = plan.opened_wall_ns if plan else 0
        self._insert(
            "rounds", run_id, round, weights, state, n_accepted, opened_wall_ns, self._wall_ns()
        )

    def event(self, kind: str, **fields: Any) -> None:
        """Keep something that happened."""
        self._insert("events", self._wall_ns(), kind, _json(fields))

    def _prepare(self, synchronous: str) -> None:
        with _writing(self._path):
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            check_version(version, path=self._path)
            self._db.execute(f"PRAGMA synchronous = {synchronous}")

    def _insert(self, table: str, *values: object) -> None:
        with self._transaction():
            self._insert_row(table, *values)

    def _insert_row(self, table: str, *values: object) -> None:
        places = ", ".join("?" * len(values))
        self._db.execute(f"INSERT INTO {table} VALUES ({places})", values)  # noqa: S608  # our names

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._db.in_transaction:
            yield
            return
        with _writing(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back where the disk is full
                    self._db.execute("ROLLBACK")
                raise


def _create(path: Path) -> None:
    """Make an empty store under another name, then give it its own.

    Raises:
        StorageError: the disk does not take it.
    """
    unfinished = path.with_name(f".{path.name}-new")
    with storing(path), _writing(path):
        for suffix in ("", "-journal", "-wal", "-shm"):  # of a creation that was killed
            unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        unfinished.rename(path)
        sync_folder(path.parent)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what SQLite cannot do into one line.

    Raises:
        StorageError: the disk is full, read-only or broken.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        # Of a full disk SQLite says either.
        is_full = any(sign in str(error) for sign in ("full", "disk I/O"))
        advice = "make room" if is_full else "put that right"
        raise StorageError(
            f"{path}: {error}; nothing accepted is lost: {advice} and start the same run again"
        ) from error


def _columns(ticket: Ticket) -> tuple[str, int, str]:
    return ticket.run_id, ticket.round, ticket.client_id


def _json(value: Any) -> str:
    return canonical_json(to_table(value)).decode()
