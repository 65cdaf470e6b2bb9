"""What a round cost: sums over work phases, boundaries apart, measured and modelled apart."""

import pytest

from fedcore.energy import Boundary, EnergyReading, ModelledEnergy, Phase, PhaseRecord, PhaseReport
from fedcore.types import Missing, Ticket
from testbed.costs import (
    MeanEnergy,
    MeasuredEnergy,
    best_energy,
    mean_measured,
    mean_modelled,
    round_cost,
)

NO_SENSOR = Missing(why="no sensor")


def reading(energy_j: float, *, rail: str = "package-0", boundary=Boundary.CPU_PACKAGE, **rest):
    return EnergyReading(
        energy_j=energy_j,
        uncertainty_j=0.1 * energy_j,
        duration_s=1.0,
        rail=rail,
        boundary=boundary,
        method="counter",
        n_samples=2,
        longest_gap_s=1.0,
        **{"meter": "rapl 1", "coverage": 1.0, **rest},
    )


def modelled(energy_j: float, *, model: str = "table") -> ModelledEnergy:
    return ModelledEnergy(
        energy_j=energy_j, low_j=energy_j / 2, high_j=2 * energy_j, model=model, inputs=""
    )


def report(*phases: tuple[Phase, object, object], round: int = 0) -> PhaseReport:
    return PhaseReport(
        ticket=Ticket(run_id="r", round=round, client_id="c"),
        attempt=0,
        phases=tuple(
            PhaseRecord(
                phase=phase,
                start_mono_ns=0,
                duration_s=0.5,
                cpu_s=0.25,
                measured=measured,
                modelled=model,
            )
            for phase, measured, model in phases
        ),
        evaluation=None,
        clock_offset_s=0.0,
        clock_uncertainty_s=0.0,
        machine_card="",
    )


def test_only_the_work_on_the_update_counts() -> None:
    cost = round_cost(
        report(
            (Phase.IDLE, (reading(100.0),), modelled(100.0)),
            (Phase.EVALUATE, (reading(50.0),), modelled(50.0)),
            (Phase.TRAIN, (reading(2.0),), modelled(4.0)),
            (Phase.SUBMIT, (reading(1.0),), modelled(1.0)),
        )
    )
    assert isinstance(cost.measured, MeasuredEnergy)
    assert isinstance(cost.modelled, ModelledEnergy)
    assert cost.measured.energy_j == pytest.approx(3.0)
    assert cost.measured.uncertainty_j == pytest.approx(0.3)
    assert cost.modelled.energy_j == pytest.approx(5.0)
    assert (cost.duration_s, cost.cpu_s) == (1.0, 0.5)


def test_one_phase_without_a_reading_leaves_no_measured_sum() -> None:
    cost = round_cost(
        report((Phase.TRAIN, (reading(2.0),), NO_SENSOR), (Phase.SUBMIT, NO_SENSOR, modelled(1.0)))
    )
    assert cost.measured == NO_SENSOR
    assert cost.modelled == NO_SENSOR


def test_packages_add_and_boundaries_do_not() -> None:
    wall = reading(9.0, rail="plug", boundary=Boundary.WALL_AC, meter="plug 1")
    cost = round_cost(
        report((Phase.TRAIN, (reading(2.0), reading(3.0, rail="package-1")), NO_SENSOR))
    )
    with_wall = round_cost(report((Phase.TRAIN, (reading(2.0), wall), NO_SENSOR)))
    assert isinstance(cost.measured, MeasuredEnergy)
    assert isinstance(with_wall.measured, MeasuredEnergy)
    assert cost.measured.energy_j == pytest.approx(5.0)
    assert with_wall.measured.energy_j == pytest.approx(9.0)
    assert with_wall.measured.boundary is Boundary.WALL_AC


def test_a_rail_that_was_read_in_some_phases_only_is_left_out() -> None:
    wall = reading(9.0, rail="plug", boundary=Boundary.WALL_AC, meter="plug 1")
    cost = round_cost(
        report(
            (Phase.TRAIN, (reading(2.0), wall), NO_SENSOR),
            (Phase.SUBMIT, (reading(1.0),), NO_SENSOR),
        )
    )
    assert isinstance(cost.measured, MeasuredEnergy)
    assert cost.measured.energy_j == pytest.approx(3.0)


def test_a_part_of_the_packages_is_not_the_machine() -> None:
    """Package 1 fails in one phase: package 0 alone would be half of the joules, called all."""
    train = (Phase.TRAIN, (reading(2.0), reading(3.0, rail="package-1")), NO_SENSOR)
    cost = round_cost(report(train, (Phase.SUBMIT, (reading(1.0),), NO_SENSOR)))
    assert isinstance(cost.measured, Missing)
    assert "every phase" in cost.measured.why


def test_the_joules_of_a_part_of_the_time_are_not_the_rounds() -> None:
    """Samples failed for most of a phase: its 3 J would enter a mean of rounds of 10 J."""
    train = (Phase.TRAIN, (reading(3.0, coverage=0.3),), NO_SENSOR)
    cost = round_cost(report(train, (Phase.SUBMIT, (reading(1.0),), NO_SENSOR)))
    assert isinstance(cost.measured, Missing)
    assert "cover only 65%" in cost.measured.why


def test_a_round_without_work_has_no_cost() -> None:
    cost = round_cost(report((Phase.IDLE, (reading(1.0),), modelled(1.0))))
    for energy in (cost.measured, cost.modelled):
        assert isinstance(energy, Missing)
        assert "no work" in energy.why


def test_measured_goes_before_modelled_and_they_never_mix() -> None:
    pytest.importorskip("scipy")  # for the interval
    costs = [
        round_cost(report((Phase.TRAIN, (reading(2.0),), modelled(70.0)), round=0)),
        round_cost(report((Phase.TRAIN, NO_SENSOR, modelled(90.0)), round=1)),
    ]
    best = best_energy(costs)
    assert isinstance(best, MeanEnergy)
    assert (best.kind, best.value_j, best.n, best.n_missing) == ("measured", 2.0, 1, 1)
    other = best_energy(costs[1:])
    assert isinstance(other, MeanEnergy)
    assert (other.kind, other.value_j) == ("modelled", 90.0)
    assert (other.low_j, other.high_j) == (45.0, 180.0)


def test_means_over_different_meters_or_models_are_refused() -> None:
    measured = [
        round_cost(report((Phase.TRAIN, (reading(2.0, meter=meter),), NO_SENSOR)))
        for meter in ("rapl 1", "perf 1")
    ]
    models = [
        round_cost(report((Phase.TRAIN, NO_SENSOR, modelled(1.0, model=model))))
        for model in ("a", "b")
    ]
    assert isinstance(mean_measured(measured), Missing)
    assert isinstance(mean_modelled(models), Missing)


def test_no_energy_says_why() -> None:
    found = best_energy([round_cost(report((Phase.TRAIN, NO_SENSOR, Missing(why="no table"))))])
    assert isinstance(found, Missing)
    assert "no sensor" in found.why
    assert "no table" in found.why
