"""What the store holds, read back as facts. The report and the tap read it through here.

Tables (schema version 2; times are Unix time in ns; `run_id`, `round`, `client_id` are the ticket):

    runs         run_id, arm, started_wall_ns, finished_wall_ns (NULL while it goes on)
    plans        run_id, round, plan (the canonical JSON that was sent), digest, weights,
                 opened_wall_ns
    asks         run_id, round, client_id, attempt, asked_wall_ns: each time a plan was pushed
    updates      seq (the tap's cursor), run_id, round, client_id, attempt, plan_digest, sha256,
                 n_bytes, n_examples, kind, received_wall_ns: one row per accepted update, whose
                 bytes lie in journal/<sha256>
    audit        wall_ns, peer (who the certificate says it is), claimed (ticket or call), reason,
                 message: one row per refusal
    reports      run_id, round, client_id, attempt, clock_offset_s, clock_uncertainty_s,
                 machine_card, surroundings (JSON or null), received_wall_ns
    phases       run_id, round, client_id, attempt, position, phase, start_mono_ns, duration_s,
                 cpu_s, measured, modelled (JSON; {"why": ...} where the value is missing)
    evaluations  run_id, round, client_id, attempt, n_correct, n_examples, mean_loss (NULL: not
                 finite): of the weights that the round started from
    clients      client_id, card (digest), hello (JSON), joined_wall_ns: the latest handshake with
                 each machine card
    rounds       run_id, round, weights (the new ones), state (the strategy's; both artefacts),
                 n_accepted, opened_wall_ns, closed_wall_ns: one row per closed round
    events       wall_ns, kind, fields (JSON): clients joined and lost, deadlines extended, ...
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcore.energy import DIVERGED, Evaluation, PhaseRecord, PhaseReport, Surroundings
from fedcore.errors import RunError
from fedcore.plan import RoundPlan
from fedcore.strict import parse
from fedcore.types import Ticket

__all__ = [
    "SCHEMA_VERSION",
    "AcceptedUpdate",
    "AuditRow",
    "ClientRow",
    "ClosedRound",
    "EventRow",
    "PlanRow",
    "RunRow",
    "StoreReader",
    "Tally",
    "check_version",
]

SCHEMA_VERSION = 2

_NAMES_WEIGHTS = "SELECT 1 FROM plans WHERE weights = ? LIMIT 1"
_NAMES_GRAPH = """
    SELECT 1 FROM plans, json_each(CAST(plan AS TEXT), '$.graphs') AS graph
    WHERE graph.value = ? LIMIT 1
"""

# A client that evaluates a round again (another attempt) counts once, with its latest answer.
_CONNECTED = """
    SELECT count(*) AS n FROM (
        SELECT kind, max(rowid) FROM events WHERE kind IN ('client-joined', 'client-lost')
        GROUP BY json_extract(fields, '$.client')
    ) WHERE kind = 'client-joined'
"""

_TALLY = """
SELECT (SELECT count(*) FROM rounds WHERE run_id = ?1) AS n_rounds,
       (SELECT count(*) FROM updates WHERE run_id = ?1) AS n_updates,
       (SELECT CAST(sum(n_correct) AS REAL) / sum(n_examples) FROM evaluations AS e
        WHERE run_id = ?1
          AND round = (SELECT max(round) FROM evaluations WHERE run_id = ?1)
          AND attempt = (SELECT max(attempt) FROM evaluations
                         WHERE run_id = ?1 AND round = e.round AND client_id = e.client_id)
       ) AS accuracy
"""


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One arm's run."""

    run_id: str
    arm: str
    started_wall_ns: int
    finished_wall_ns: int | None


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A plan as it was sent, and when its round opened."""

    run_id: str
    round: int
    plan: bytes
    digest: str
    weights: str
    opened_wall_ns: int

    def parsed(self) -> RoundPlan:
        """The plan."""
        return parse(RoundPlan, json.loads(self.plan), where="stored plan")


@dataclass(frozen=True, kw_only=True)
class AcceptedUpdate:
    """One accepted update; its bytes lie in the journal under `sha256`."""

    seq: int
    ticket: Ticket
    attempt: int
    plan_digest: str
    sha256: str
    n_bytes: int
    n_examples: int
    kind: str
    received_wall_ns: int


@dataclass(frozen=True, kw_only=True)
class ClosedRound:
    """What a closed round left behind."""

    run_id: str
    round: int
    weights: str
    state: str
    n_accepted: int
    opened_wall_ns: int
    closed_wall_ns: int


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One refusal."""

    wall_ns: int
    peer: str
    claimed: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class ClientRow:
    """A client's latest handshake with one machine card."""

    client_id: str
    card: str
    hello: Mapping[str, Any]
    joined_wall_ns: int


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """Something that happened, for people."""

    wall_ns: int
    kind: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How far a run is.

    Attributes:
        n_rounds: closed.
        n_updates: accepted.
        accuracy: of all clients' examples together at the latest evaluated round, or None.
    """

    n_rounds: int
    n_updates: int
    accuracy: float | None


class StoreReader:
    """Reads a run's store, also while the aggregator writes it.

    Args:
        path: of the SQLite file.

    Raises:
        RunError: there is no store, or a newer Leakwatt wrote it.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise RunError(f"{path}: cannot be read ({error}); has the run started?") from error
        self._db.row_factory = sqlite3.Row
        check_version(version, path=path)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def runs(self) -> list[RunRow]:
        """All runs, in the order in which they started."""
        return [RunRow(**row) for row in self._rows("SELECT * FROM runs ORDER BY rowid")]

    def is_finished(self, run_id: str) -> bool:
        """Whether every round of a run is closed."""
        rows = self._rows("SELECT finished_wall_ns FROM runs WHERE run_id = ?", run_id)
        return bool(rows) and rows[0]["finished_wall_ns"] is not None

    def plan(self, run_id: str, *, round: int) -> PlanRow | None:
        """The plan of a round that was opened."""
        rows = self._rows("SELECT * FROM plans WHERE run_id = ? AND round = ?", run_id, round)
        return PlanRow(**rows[0]) if rows else None

    def is_plan_artefact(self, sha256: str) -> bool:
        """Whether some plan names this artefact, so that anybody in the run may download it."""
        return any(self._rows(query, sha256) for query in (_NAMES_WEIGHTS, _NAMES_GRAPH))

    def updates(self, run_id: str, *, from_seq: int = 0, limit: int = -1) -> list[AcceptedUpdate]:
        """Accepted updates of a run in order of arrival, from a cursor on."""
        return self._updates(
            "WHERE run_id = ? AND seq >= ? ORDER BY seq LIMIT ?", run_id, from_seq, limit
        )

    def accepted(self, run_id: str, *, round: int) -> list[AcceptedUpdate]:
        """Accepted updates of a round, in client-id order."""
        return self._updates("WHERE run_id = ? AND round = ? ORDER BY client_id", run_id, round)

    def acceptance(self, ticket: Ticket) -> AcceptedUpdate | None:
        """A client's accepted update of one round."""
        found = self._updates(
            "WHERE run_id = ? AND round = ? AND client_id = ?",
            ticket.run_id,
            ticket.round,
            ticket.client_id,
        )
        return found[0] if found else None

    def acceptance_of_bytes(self, sha256: str) -> AcceptedUpdate | None:
        """The accepted update with these bytes."""
        found = self._updates("WHERE sha256 = ? LIMIT 1", sha256)
        return found[0] if found else None

    def last_attempt(self, ticket: Ticket) -> int | None:
        """The number of the latest push of a plan to a client; None if it was never asked."""
        rows = self._rows(
            "SELECT max(attempt) AS attempt FROM asks "
            "WHERE run_id = ? AND round = ? AND client_id = ?",
            ticket.run_id,
            ticket.round,
            ticket.client_id,
        )
        attempt: int | None = rows[0]["attempt"]
        return attempt

    def rounds(self, run_id: str) -> list[ClosedRound]:
        """Closed rounds of a run."""
        rows = self._rows("SELECT * FROM rounds WHERE run_id = ? ORDER BY round", run_id)
        return [ClosedRound(**row) for row in rows]

    def reporters(self, run_id: str, *, round: int) -> frozenset[str]:
        """Clients whose phase report of a round came."""
        rows = self._rows(
            "SELECT DISTINCT client_id FROM reports WHERE run_id = ? AND round = ?", run_id, round
        )
        return frozenset(row["client_id"] for row in rows)

    def reports(self, run_id: str) -> list[PhaseReport]:
        """Phase reports of a run by round, client and attempt."""
        phases: dict[tuple[int, str, int], list[PhaseRecord]] = {}
        for row in self._rows("SELECT * FROM phases WHERE run_id = ? ORDER BY position", run_id):
            phases.setdefault(_key(row), []).append(_phase(row))
        evaluations = {
            _key(row): Evaluation(
                n_correct=row["n_correct"],
                n_examples=row["n_examples"],
                mean_loss=DIVERGED if row["mean_loss"] is None else row["mean_loss"],
            )
            for row in self._rows("SELECT * FROM evaluations WHERE run_id = ?", run_id)
        }
        rows = self._rows(
            "SELECT * FROM reports WHERE run_id = ? ORDER BY round, client_id, attempt", run_id
        )
        return [
            PhaseReport(
                ticket=_ticket(row),
                attempt=row["attempt"],
                phases=tuple(phases.get(_key(row), ())),
                evaluation=evaluations.get(_key(row)),
                clock_offset_s=row["clock_offset_s"],
                clock_uncertainty_s=row["clock_uncertainty_s"],
                machine_card=row["machine_card"],
                surroundings=_surroundings(row["surroundings"]),
            )
            for row in rows
        ]

    def evaluations(self, run_id: str) -> list[tuple[Ticket, Evaluation]]:
        """Evaluations of a run, one per ticket: of the latest attempt."""
        latest = {
            report.ticket: report.evaluation
            for report in self.reports(run_id)
            if report.evaluation is not None
        }
        return list(latest.items())

    def tally(self, run_id: str) -> Tally:
        """How far a run is, counted by SQLite: cheap enough to ask every second."""
        (row,) = self._rows(_TALLY, run_id)
        return Tally(**row)

    def n_refused(self) -> int:
        """Number of refusals."""
        return int(self._rows("SELECT count(*) AS n FROM audit")[0]["n"])

    def n_connected(self) -> int:
        """Number of clients whose latest event is that they joined."""
        return int(self._rows(_CONNECTED)[0]["n"])

    def latest_event(self) -> str | None:
        """Kind of the latest event."""
        rows = self._rows("SELECT kind FROM events ORDER BY rowid DESC LIMIT 1")
        return str(rows[0]["kind"]) if rows else None

    def audit(self) -> list[AuditRow]:
        """All refusals, in order."""
        rows = self._rows("SELECT * FROM audit ORDER BY rowid")
        return [AuditRow(**row) for row in rows]

    def clients(self) -> list[ClientRow]:
        """Handshakes, one per client and machine card."""
        rows = self._rows("SELECT * FROM clients ORDER BY client_id, joined_wall_ns")
        return [ClientRow(**{**row, "hello": json.loads(row["hello"])}) for row in rows]

    def events(self) -> list[EventRow]:
        """What happened, in order."""
        rows = self._rows("SELECT * FROM events ORDER BY rowid")
        return [EventRow(**{**row, "fields": json.loads(row["fields"])}) for row in rows]

    def _updates(self, where: str, *values: object) -> list[AcceptedUpdate]:
        rows = self._rows(f"SELECT * FROM updates {where}", *values)  # noqa: S608  # our constants
        return [_accepted(row) for row in rows]

    def _rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        return [dict(row) for row in self._db.execute(query, values)]


def check_version(version: int, *, path: Path) -> None:
    """Refuse a store that this version does not understand.

    Raises:
        RunError: another schema.
    """
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path}: store schema {version}, this version of leakwatt reads {SCHEMA_VERSION}; "
            "use the version that wrote it"
        )


def _ticket(row: Mapping[str, Any]) -> Ticket:
    return Ticket(run_id=row["run_id"], round=row["round"], client_id=row["client_id"])


def _key(row: Mapping[str, Any]) -> tuple[int, str, int]:
    return row["round"], row["client_id"], row["attempt"]


def _accepted(row: Mapping[str, Any]) -> AcceptedUpdate:
    rest = {k: v for k, v in row.items() if k not in ("run_id", "round", "client_id")}
    return AcceptedUpdate(ticket=_ticket(row), **rest)


def _phase(row: Mapping[str, Any]) -> PhaseRecord:
    table = {
        "phase": row["phase"],
        "start_mono_ns": row["start_mono_ns"],
        "duration_s": row["duration_s"],
        "cpu_s": row["cpu_s"],
        "measured": json.loads(row["measured"]),
        "modelled": json.loads(row["modelled"]),
    }
    return parse(PhaseRecord, table, where="stored phase")


def _surroundings(text: str) -> Surroundings | None:
    table = json.loads(text)
    return None if table is None else parse(Surroundings, table, where="stored surroundings")
