"""When a round opens, whom it asks, and when it closes: a pure machine, with time handed in.

    Opened  -> Push to every live client that has not answered
    Joined  -> Push, if its answer is still wanted
    Lost    -> perhaps Close: nobody is left to wait for
    Answered-> perhaps Close
    Tick    -> at the deadline: Close by quorum, or Extend, or after three extensions Stop

The server feeds events and carries out actions; after a Close it folds and feeds the next Opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedcore.config import Arm, Experiment, Schedule
from fedcore.defences.base import chain
from fedcore.plan import RoundPlan

__all__ = [
    "MAX_EXTENSIONS",
    "Action",
    "Answered",
    "Close",
    "Event",
    "Extend",
    "Joined",
    "Lost",
    "Opened",
    "Push",
    "RoundMachine",
    "Stop",
    "Tick",
    "plan_for",
]

MAX_EXTENSIONS = 3


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A round's plan is stored; these clients answered it before the aggregator restarted."""

    round: int
    answered: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A client's stream is up."""

    client_id: str


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A client's stream broke, or three heartbeats are missing."""

    client_id: str


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A client's update was accepted; in the closing evaluation, its report came."""

    round: int
    client_id: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Time went by."""


Event = Opened | Joined | Lost | Answered | Tick


@dataclass(frozen=True, kw_only=True)
class Push:
    """Send the open round's plan to a client."""

    round: int
    client_id: str


@dataclass(frozen=True, kw_only=True)
class Close:
    """Fold the answers of these clients, in this order."""

    round: int
    answered: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Extend:
    """The deadline passed without a quorum; wait once more."""

    round: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The run cannot go on."""

    reason: str


Action = Push | Close | Extend | Stop


class RoundMachine:
    """Who is here, who has answered, and what follows from that. No clock, no input or output.

    Args:
        clients: every client that takes part, in folding order.
        schedule: quorum, deadline, and whether a round waits for all.
        live: clients that are connected already.
    """

    def __init__(
        self, *, clients: Iterable[str], schedule: Schedule, live: Iterable[str] = ()
    ) -> None:
        self._clients = tuple(clients)
        self._schedule = schedule
        self._live = set(live)
        self._given_up: set[str] = set()  # lost, or not seen until a deadline passed
        self._answered: set[str] = set()
        self._round: int | None = None
        self._deadline_s = 0.0
        self._extensions = 0

    @property
    def open_round(self) -> int | None:
        """The round that takes answers, or None between two rounds."""
        return self._round

    @property
    def answered(self) -> frozenset[str]:
        """Clients whose answer to the open round is in."""
        return frozenset(self._answered)

    def handle(self, event: Event, *, now_s: float) -> list[Action]:
        """Take one event in and say what to do.

        Args:
            event: in the order in which things happened.
            now_s: monotonic time, in s.
        """
        if isinstance(event, Opened):
            return self._open(event, now_s=now_s)
        if isinstance(event, Joined):
            return self._join(event.client_id)
        if isinstance(event, Lost):
            self._live.discard(event.client_id)
            self._given_up.add(event.client_id)
        elif isinstance(event, Answered) and event.round == self._round:
            self._answered.add(event.client_id)
        elif isinstance(event, Tick):
            return self._tick(now_s)
        return self._close_if(self._is_complete())

    def _open(self, event: Opened, *, now_s: float) -> list[Action]:
        self._round = event.round
        self._answered = set(event.answered)
        self._deadline_s = now_s + self._schedule.deadline_s
        self._extensions = 0
        asked = [c for c in self._clients if c in self._live and c not in self._answered]
        pushes = [Push(round=event.round, client_id=client_id) for client_id in asked]
        return self._close_if(self._is_complete()) or [*pushes]

    def _join(self, client_id: str) -> list[Action]:
        self._live.add(client_id)
        self._given_up.discard(client_id)
        if self._round is None or client_id not in self._clients or client_id in self._answered:
            return []
        return [Push(round=self._round, client_id=client_id)]

    def _tick(self, now_s: float) -> list[Action]:
        if self._round is None or now_s < self._deadline_s:
            return []
        self._given_up.update(set(self._clients) - self._live)
        if not self._schedule.wait_for_all and self._has_quorum():
            return self._close_if(True)
        reason = self._what_is_missing()
        if self._extensions == MAX_EXTENSIONS:
            self._round = None
            return [Stop(reason=f"{reason}; {MAX_EXTENSIONS} extensions did not help")]
        extend = Extend(round=self._round, reason=reason)
        self._extensions += 1
        self._deadline_s = now_s + self._schedule.deadline_s
        return [extend]

    def _is_complete(self) -> bool:
        """Whether there is nothing more to wait for."""
        missing = set(self._clients) - self._answered
        if self._schedule.wait_for_all:
            return not missing
        return self._has_quorum() and missing <= self._given_up

    def _has_quorum(self) -> bool:
        return len(self._answered) >= self._schedule.quorum

    def _close_if(self, condition: bool) -> list[Action]:
        if self._round is None or not condition:
            return []
        order = tuple(c for c in self._clients if c in self._answered)
        close = Close(round=self._round, answered=order)
        self._round = None
        return [close]

    def _what_is_missing(self) -> str:
        needed = len(self._clients) if self._schedule.wait_for_all else self._schedule.quorum
        missing = [c for c in self._clients if c not in self._answered]
        shown = ", ".join(missing[:5]) + (" and others" if len(missing) > 5 else "")
        return (
            f"round {self._round}: {len(self._answered)} of {needed} needed answers within "
            f"{self._schedule.deadline_s:g} s; nothing came from {shown}"
        )


def plan_for(
    experiment: Experiment,
    arm: Arm,
    *,
    round: int,
    weights: str,
    graphs: Mapping[str, str],
) -> RoundPlan:
    """What one round of an arm prescribes; the one after the last only evaluates.

    Args:
        experiment: resolved.
        arm: of that experiment.
        round: from 0 to `arm.schedule.rounds`.
        weights: digest of the global weights that the round starts from.
        graphs: digests of the model's graphs by kind, see `RoundPlan.graphs`.
    """
    schedule = arm.schedule
    is_last = round == schedule.rounds
    return RoundPlan(
        run_id=experiment.run_id(arm),
        round=round,
        experiment_digest=experiment.digest,
        model=chain(arm.defences).model(arm.model),
        weights=weights,
        encoding=arm.encoding,
        training=arm.training,
        defences=arm.defences,
        codec=arm.codec,
        train=not is_last,
        evaluate=is_last or round % schedule.evaluate_every == 0,
        max_examples=schedule.max_examples,
        deadline_s=schedule.deadline_s,
        reproducible=experiment.reproducible,
        graphs=graphs,
    )
