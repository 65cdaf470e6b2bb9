"""How long the phases of a client's round take, and what part of the round no phase covers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.energy import Phase, PhaseRecord, PhaseReport
from fedcore.types import Missing
from testbed.costs import WORK

__all__ = ["OTHER", "Latency", "latencies", "uncovered_share"]

OTHER = "other"
"""Between the first and the last phase of a round, but inside none."""

_N_FOR_P90 = 10
_N_FOR_P99 = 100
_ORDER = (*(phase.value for phase in WORK), OTHER)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Wall time of one phase over rounds. Warm-up is left out of everything but its count.

    Attributes:
        client: its name, or "" for all clients together.
        phase: name of a `Phase`, or `OTHER`.
        n: rounds in the quantiles.
        n_warm_up: rounds left out: each client's first.
        p90_s: Missing below 10 rounds.
        p99_s: Missing below 100 rounds.
    """

    client: str
    phase: str
    n: int
    n_warm_up: int
    median_s: float | Missing
    p90_s: float | Missing
    p99_s: float | Missing


def latencies(reports: Sequence[PhaseReport]) -> list[Latency]:
    """One entry per phase over all clients, then one per client and phase."""
    first = _first_rounds(reports)
    seconds: dict[tuple[str, str], list[float]] = {}
    warm_up: dict[tuple[str, str], int] = {}
    for report in reports:
        for client in ("", report.ticket.client_id):
            for phase, duration_s in _durations(report):
                key = client, phase
                seconds.setdefault(key, [])
                if report.ticket.round == first[report.ticket.client_id]:
                    warm_up[key] = warm_up.get(key, 0) + 1
                else:
                    seconds[key].append(duration_s)
    return [
        Latency(
            client=client,
            phase=phase,
            n=len(values),
            n_warm_up=warm_up.get((client, phase), 0),
            median_s=_quantile(values, 0.5, at_least=1),
            p90_s=_quantile(values, 0.9, at_least=_N_FOR_P90),
            p99_s=_quantile(values, 0.99, at_least=_N_FOR_P99),
        )
        for (client, phase), values in sorted(seconds.items(), key=lambda item: _place(*item[0]))
    ]


def uncovered_share(reports: Sequence[PhaseReport]) -> float | Missing:
    """Of all rounds' time together, the part that lies in no phase."""
    both = [_uncovered(report) for report in reports]
    whole_s = sum(whole for _, whole in both)
    if not whole_s:
        return Missing(why="no client reported its phases")
    return sum(other for other, _ in both) / whole_s


def _uncovered(report: PhaseReport) -> tuple[float, float]:
    """Seconds of a client's round that no phase covers, and the round's, from plan to last phase.

    Waiting for the plan is before the round; evaluating is inside.
    """
    spans = sorted(_spans(record for record in report.phases if record.phase is not Phase.IDLE))
    if not spans:
        return 0.0, 0.0
    start_s, end_s = spans[0][0], max(end for _, end in spans)
    covered_s, reached_s = 0.0, start_s
    for begin, end in spans:
        covered_s += max(0.0, end - max(begin, reached_s))
        reached_s = max(reached_s, end)
    return end_s - start_s - covered_s, end_s - start_s


def _spans(records: Iterable[PhaseRecord]) -> Iterable[tuple[float, float]]:
    for record in records:
        start_s = record.start_mono_ns * 1e-9
        yield start_s, start_s + record.duration_s


def _durations(report: PhaseReport) -> list[tuple[str, float]]:
    """A phase that a round has twice (submit: packing and sending) is one duration."""
    total: dict[str, float] = {}
    for record in report.phases:
        total[record.phase.value] = total.get(record.phase.value, 0.0) + record.duration_s
    other_s, whole_s = _uncovered(report)
    if whole_s:
        total[OTHER] = other_s
    return list(total.items())


def _first_rounds(reports: Sequence[PhaseReport]) -> dict[str, int]:
    first: dict[str, int] = {}
    for report in reports:
        client, number = report.ticket.client_id, report.ticket.round
        first[client] = min(number, first.get(client, number))
    return first


def _quantile(values: Sequence[float], share: float, *, at_least: int) -> float | Missing:
    if len(values) < at_least:
        return Missing(why=f"n too small: {len(values)} rounds, {at_least} needed")
    return float(np.quantile(values, share))


def _place(client: str, phase: str) -> tuple[str, int, str]:
    order = _ORDER.index(phase) if phase in _ORDER else len(_ORDER)
    return client, order, phase
