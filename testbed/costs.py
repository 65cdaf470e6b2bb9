"""What a client's round cost: time, and energy that is either measured or modelled, never both."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedcore.energy import Boundary, EnergyReading, ModelledEnergy, Phase, PhaseReport
from fedcore.types import Missing, Ticket
from testbed.statistics import mean_with_interval

__all__ = [
    "WORK",
    "MeanEnergy",
    "MeasuredEnergy",
    "RoundCost",
    "best_energy",
    "mean_measured",
    "mean_modelled",
    "mean_of_measured",
    "round_cost",
    "sum_measured",
    "widest",
]

WORK = (Phase.RECEIVE, Phase.ENCODE, Phase.TRAIN, Phase.DEFEND, Phase.SUBMIT)
"""The phases that an update is made in. Waiting (idle) and evaluating are not part of its cost."""

_WIDEST_FIRST = (
    Boundary.WALL_AC,
    Boundary.BOARD_DC_INPUT,
    Boundary.MODULE_INPUT,
    Boundary.RAILS_SUM,
    Boundary.CPU_PACKAGE,
    Boundary.GPU_BOARD,
)

_NO_WORK = Missing(why="the client reported no work phase")

_WHOLE = 0.99
"""Share of a window that samples must cover for its joules to stand for all of it."""


@dataclass(frozen=True, kw_only=True)
class MeasuredEnergy:
    """Joules inside one boundary, over the rails that make it up.

    Attributes:
        uncertainty_j: half-width of the 95 % interval.
        flags: what a reader must know ("shared(4)": other clients' work is inside, too).
    """

    energy_j: float
    uncertainty_j: float
    boundary: Boundary
    meter: str
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """One client's work for one update.

    Attributes:
        duration_s: wall time of the work phases.
        cpu_s: their CPU time.
    """

    ticket: Ticket
    duration_s: float
    cpu_s: float
    measured: MeasuredEnergy | Missing
    modelled: ModelledEnergy | Missing


@dataclass(frozen=True, kw_only=True)
class MeanEnergy:
    """Joules per client-round with an interval.

    Attributes:
        kind: what the joules are; the two are never added or averaged together.
        low_j: lower end of the interval.
        high_j: upper end.
        n: client-rounds in the mean.
        n_missing: client-rounds without a value.
        source: meter and boundary, or the energy model.
        flags: of the readings.
    """

    kind: Literal["measured", "modelled"]
    value_j: float
    low_j: float
    high_j: float
    n: int
    n_missing: int
    source: str
    flags: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """What stands beside the joules: flags, and of how many client-rounds they are not all."""
        if not self.n_missing:
            return self.flags
        return (*self.flags, f"{self.n} of {self.n + self.n_missing} client-rounds")


def round_cost(report: PhaseReport) -> RoundCost:
    """Sum the work phases of one client's round."""
    work = [record for record in report.phases if record.phase in WORK]
    return RoundCost(
        ticket=report.ticket,
        duration_s=math.fsum(record.duration_s for record in work),
        cpu_s=math.fsum(record.cpu_s for record in work),
        measured=sum_measured([record.measured for record in work]),
        modelled=_sum_modelled([record.modelled for record in work]),
    )


def widest(readings: Sequence[EnergyReading]) -> MeasuredEnergy | Missing:
    """The joules inside the widest boundary among the readings of one window.

    Rails of one boundary and meter are disjoint parts of it (the packages of one machine), so
    they add; their uncertainties add linearly, being one meter's. Boundaries never add. The joules
    of a part of the window are not the window's, and are missing.
    """
    for boundary in _WIDEST_FIRST:
        inside = [reading for reading in readings if reading.boundary is boundary]
        if inside:
            meter = inside[0].meter
            inside = [reading for reading in inside if reading.meter == meter]
            if (covered := min(reading.coverage for reading in inside)) < _WHOLE:
                return Missing(why=f"samples of {meter} cover only {covered:.0%} of the time")
            return MeasuredEnergy(
                energy_j=math.fsum(reading.energy_j for reading in inside),
                uncertainty_j=math.fsum(reading.uncertainty_j for reading in inside),
                boundary=boundary,
                meter=meter,
                flags=tuple(sorted({flag for reading in inside for flag in reading.flags})),
            )
    return Missing(why="no meter read this window")


def mean_measured(costs: Sequence[RoundCost]) -> MeanEnergy | Missing:
    """Mean measured joules per client-round."""
    return mean_of_measured([cost.measured for cost in costs])


def mean_of_measured(energies: Sequence[MeasuredEnergy | Missing]) -> MeanEnergy | Missing:
    """The mean of one energy per client-round.

    The interval joins Student's t over client-rounds with the meter's own uncertainty, which is
    common to all of them, as the root of the sum of squares.
    """
    found = [energy for energy in energies if not isinstance(energy, Missing)]
    reasons = [energy.why for energy in energies if isinstance(energy, Missing)]
    if not found:
        return Missing(why=_first(reasons))
    kinds = {(energy.boundary, energy.meter) for energy in found}
    if len(kinds) > 1:
        names = ", ".join(sorted(f"{meter} ({boundary.value})" for boundary, meter in kinds))
        return Missing(why=f"clients were measured in different ways ({names}): no common mean")
    mean = mean_with_interval([energy.energy_j for energy in found])
    if isinstance(mean, Missing):
        return mean
    reach = math.hypot(
        mean.high - mean.value, float(np.mean([energy.uncertainty_j for energy in found]))
    )
    return MeanEnergy(
        kind="measured",
        value_j=mean.value,
        low_j=mean.value - reach,
        high_j=mean.value + reach,
        n=len(found),
        n_missing=len(reasons),
        source=f"{found[0].meter}, {found[0].boundary.value}",
        flags=tuple(sorted({flag for energy in found for flag in energy.flags})),
    )


def mean_modelled(costs: Sequence[RoundCost]) -> MeanEnergy | Missing:
    """Mean modelled joules per client-round; the interval is the model's, common to all rounds."""
    found = [cost.modelled for cost in costs if not isinstance(cost.modelled, Missing)]
    reasons = [cost.modelled.why for cost in costs if isinstance(cost.modelled, Missing)]
    if not found:
        return Missing(why=_first(reasons))
    models = sorted({energy.model for energy in found})
    if len(models) > 1:
        return Missing(why=f"clients were modelled in different ways ({', '.join(models)})")
    return MeanEnergy(
        kind="modelled",
        value_j=float(np.mean([energy.energy_j for energy in found])),
        low_j=float(np.mean([energy.low_j for energy in found])),
        high_j=float(np.mean([energy.high_j for energy in found])),
        n=len(found),
        n_missing=len(reasons),
        source=models[0],
    )


def best_energy(costs: Sequence[RoundCost]) -> MeanEnergy | Missing:
    """What was measured; where nothing was, what is modelled, and marked as such."""
    measured = mean_measured(costs)
    if not isinstance(measured, Missing):
        return measured
    modelled = mean_modelled(costs)
    if not isinstance(modelled, Missing):
        return modelled
    return Missing(why=f"not measured: {measured.why}; not modelled: {modelled.why}")


def sum_measured(
    phases: Sequence[tuple[EnergyReading, ...] | Missing],
) -> MeasuredEnergy | Missing:
    """The joules of disjoint windows, inside the widest boundary that was read in all of them."""
    if not phases:
        return _NO_WORK
    rails: dict[tuple[str, str, str], list[EnergyReading]] = {}
    for readings in phases:
        if isinstance(readings, Missing):
            return readings
        for reading in readings:
            key = (reading.meter, reading.boundary.value, reading.rail)
            rails.setdefault(key, []).append(reading)
    # Rails of one boundary add up to it. Where one of them was not read in every phase, the sum
    # would be of a part of the round, or of a part of the machine.
    torn = {key[:2] for key, found in rails.items() if len(found) < len(phases)}
    whole = [found for key, found in rails.items() if key[:2] not in torn]
    if rails and not whole:
        return Missing(why="no meter read all its rails in every phase of the work")
    return widest([functools.reduce(EnergyReading.plus, found) for found in whole])


def _sum_modelled(phases: Sequence[ModelledEnergy | Missing]) -> ModelledEnergy | Missing:
    parts: list[ModelledEnergy] = []
    for energy in phases:
        if isinstance(energy, Missing):
            return energy
        parts.append(energy)
    if not parts:
        return _NO_WORK
    return functools.reduce(ModelledEnergy.plus, parts)


def _first(reasons: Sequence[str]) -> str:
    return reasons[0] if reasons else "no client reported its phases"
