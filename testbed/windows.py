"""Rounds and runs as windows of their own, beside the sum of the phases inside them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedcore.energy import Phase, PhaseReport, WindowRecord
from fedcore.types import Missing
from testbed.costs import MeanEnergy, MeasuredEnergy, mean_of_measured, sum_measured

__all__ = ["mean_round", "mean_run", "unlike_rounds"]

_NO_WINDOW = Missing(why="the client measured no such window")


def mean_round(reports: Sequence[PhaseReport]) -> MeanEnergy | Missing:
    """Measured joules per client-round: all of it, from the plan to the acknowledgement."""
    return mean_of_measured([_energy(_windows([report], "round")) for report in reports])


def mean_run(reports: Sequence[PhaseReport]) -> MeanEnergy | Missing:
    """Measured joules per client and run: all of it, waiting included."""
    by_client: dict[str, list[PhaseReport]] = {}
    for report in reports:
        by_client.setdefault(report.ticket.client_id, []).append(report)
    return mean_of_measured([_energy(_windows(own, "run")) for own in by_client.values()])


def unlike_rounds(reports: Sequence[PhaseReport]) -> list[PhaseReport]:
    """Those whose round is not the sum of its phases within the uncertainties of both.

    What no phase covers is taken at the round's mean power, give or take all of it.
    """
    return [report for report in reports if _is_unlike(report)]


def _is_unlike(report: PhaseReport) -> bool:
    around = _windows([report], "round")
    phases = [record for record in report.phases if record.phase is not Phase.IDLE]
    whole, parts = _energy(around), sum_measured([record.measured for record in phases])
    if isinstance(whole, Missing) or isinstance(parts, Missing):
        return False
    whole_s = math.fsum(record.duration_s for record in around)
    other_s = whole_s - math.fsum(record.duration_s for record in phases)
    other_j = whole.energy_j * other_s / whole_s
    missed_j = abs(whole.energy_j - parts.energy_j - other_j)
    return missed_j > whole.uncertainty_j + parts.uncertainty_j + abs(other_j)


def _windows(reports: Sequence[PhaseReport], name: str) -> list[WindowRecord]:
    return [
        record
        for report in reports
        if report.surroundings is not None
        for record in report.surroundings.windows
        if record.name == name
    ]


def _energy(windows: Sequence[WindowRecord]) -> MeasuredEnergy | Missing:
    return sum_measured([record.measured for record in windows]) if windows else _NO_WINDOW
