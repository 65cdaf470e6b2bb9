"""Net energy: idle is taken off the covered part alone, and its drift is in the uncertainty."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fedcore.energy import (
    Baseline,
    Boundary,
    EnergyReading,
    IdlePower,
    ModelledEnergy,
    Phase,
    WindowRecord,
    net_energy,
)
from fedcore.errors import MeterError
from fedcore.types import Missing

READING = EnergyReading(
    energy_j=100.0,
    uncertainty_j=3.0,
    duration_s=10.0,
    rail="VDD_IN",
    boundary=Boundary.MODULE_INPUT,
    method="integrated",
    coverage=0.8,
    n_samples=80,
    longest_gap_s=0.1,
    meter="hwmon 1",
)


def idle(power_w: float, uncertainty_w: float = 0.0) -> Baseline:
    rail = IdlePower(
        power_w=power_w,
        uncertainty_w=uncertainty_w,
        rail="VDD_IN",
        boundary=Boundary.MODULE_INPUT,
        meter="hwmon 1",
    )
    return Baseline(start_mono_ns=0, duration_s=5.0, rails=(rail,))


def test_idle_is_taken_off_what_was_covered() -> None:
    net = net_energy(READING, before=idle(5.0), after=idle(5.0))
    assert net.energy_j == pytest.approx(100 - 5 * 8)
    assert net.uncertainty_j == pytest.approx(3.0)
    assert net.gross == READING
    assert net.idle_w == 5.0


def test_drift_and_idle_uncertainty_are_in_the_interval() -> None:
    net = net_energy(READING, before=idle(4.0, 0.2), after=idle(6.0, 0.4))
    assert net.energy_j == pytest.approx(100 - 5 * 8)
    assert net.uncertainty_j == pytest.approx(math.hypot(3.0, 0.3 * 8, 1.0 * 8))


def test_nothing_but_idle_is_zero_within_its_interval() -> None:
    net = net_energy(READING, before=idle(12.4, 0.2), after=idle(13.0, 0.2))
    assert net.energy_j == pytest.approx(-1.6)
    assert abs(net.energy_j) < net.uncertainty_j


@pytest.mark.parametrize(
    "other",
    [{"rail": "VDD_SOC"}, {"boundary": Boundary.WALL_AC}, {"meter": "hwmon 2"}],
)
def test_the_idle_power_of_something_else_is_refused(other: dict[str, object]) -> None:
    with pytest.raises(MeterError, match="no idle power of "):
        net_energy(replace(READING, **other), before=idle(5.0), after=idle(5.0))  # type: ignore[arg-type]


def test_a_missing_baseline_is_a_reason() -> None:
    nothing = Baseline(start_mono_ns=0, duration_s=5.0, rails=Missing(why="no sensor"))
    with pytest.raises(MeterError, match="VDD_IN: no sensor"):
        net_energy(READING, before=idle(5.0), after=nothing)


def test_a_window_bears_the_name_of_a_phase_or_not() -> None:
    modelled = ModelledEnergy(energy_j=1.0, low_j=0.5, high_j=2.0, model="m", inputs="1 CPU-s")
    record = WindowRecord(
        name="train",
        start_mono_ns=7,
        duration_s=2.0,
        cpu_s=1.5,
        measured=(READING,),
        modelled=modelled,
    )
    phase = record.as_phase()
    assert phase.phase is Phase.TRAIN
    assert (phase.start_mono_ns, phase.duration_s, phase.cpu_s) == (7, 2.0, 1.5)
    assert (phase.measured, phase.modelled) == ((READING,), modelled)
    with pytest.raises(ValueError, match="'epoch 3' is not a valid Phase"):
        replace(record, name="epoch 3").as_phase()
