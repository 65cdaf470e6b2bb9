"""Net energy: what an update cost above the power that its machine draws doing nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fedcore.energy import Baseline, IdlePower, PhaseReport
from fedcore.errors import MeterError
from fedcore.types import Missing
from testbed.costs import MeanEnergy, MeasuredEnergy, RoundCost, mean_of_measured
from testbed.results import ArmResults

__all__ = ["net_energies"]

_NO_BASELINE = "no idle power was measured {when}; set hardware.baseline_s"


def net_energies(arms: Sequence[ArmResults]) -> list[MeanEnergy | Missing]:
    """Mean net joules per client-round, one entry per arm.

    The idle power is the mean of the last baseline before the round and of the first one after
    it, on the same machine and meter; half of what it drifted between the two is in the interval.
    """
    reports = [report for arm in arms for report in arm.reports]
    return [_net_of(arm, reports) for arm in arms]


def _net_of(arm: ArmResults, reports: Sequence[PhaseReport]) -> MeanEnergy | Missing:
    nets = []
    for report in arm.reports:
        cost = arm.costs.get(report.ticket)
        if cost is not None:
            nets.append(_net(cost, report, list(_baselines(report, reports))))
    return mean_of_measured(nets)


def _baselines(report: PhaseReport, reports: Sequence[PhaseReport]) -> Iterator[Baseline]:
    """All of the client, as long as it was one process on one machine."""
    own = report.ticket.client_id, report.machine_card
    for other in reports:
        if other.surroundings and (other.ticket.client_id, other.machine_card) == own:
            yield from other.surroundings.baselines


def _net(
    cost: RoundCost, report: PhaseReport, baselines: Sequence[Baseline]
) -> MeasuredEnergy | Missing:
    gross = cost.measured
    if isinstance(gross, Missing):
        return gross
    start_ns = report.phases[0].start_mono_ns
    before = [b for b in baselines if b.start_mono_ns < start_ns]
    after = [b for b in baselines if b.start_mono_ns >= start_ns]
    if not before or not after:
        return Missing(why=_NO_BASELINE.format(when="after it" if before else "before it"))
    try:
        first = _idle_w(max(before, key=_begin), gross)
        last = _idle_w(min(after, key=_begin), gross)
    except MeterError as error:
        return Missing(why=str(error))
    return MeasuredEnergy(
        energy_j=gross.energy_j - (first[0] + last[0]) / 2 * cost.duration_s,
        uncertainty_j=math.hypot(
            gross.uncertainty_j,
            (first[1] + last[1]) / 2 * cost.duration_s,
            abs(first[0] - last[0]) / 2 * cost.duration_s,
        ),
        boundary=gross.boundary,
        meter=gross.meter,
        flags=gross.flags,
    )


def _begin(baseline: Baseline) -> int:
    return baseline.start_mono_ns


def _idle_w(baseline: Baseline, gross: MeasuredEnergy) -> tuple[float, float]:
    """Power and uncertainty over the rails that make up the boundary.

    Raises:
        MeterError: it has none of them.
    """
    if isinstance(baseline.rails, Missing):
        raise MeterError(baseline.rails.why)
    rails: list[IdlePower] = [
        rail
        for rail in baseline.rails
        if (rail.boundary, rail.meter) == (gross.boundary, gross.meter)
    ]
    if not rails:
        raise MeterError(f"no idle power of {gross.meter} ({gross.boundary.value})")
    return math.fsum(r.power_w for r in rails), math.fsum(r.uncertainty_w for r in rails)
