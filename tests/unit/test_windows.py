"""Rounds and runs as windows of their own, on reports put together by hand."""

from __future__ import annotations

import pytest

from fedcore.conditions import Conditions
from fedcore.energy import (
    Boundary,
    EnergyReading,
    Phase,
    PhaseRecord,
    PhaseReport,
    Surroundings,
    WindowRecord,
)
from fedcore.types import Missing, Ticket
from testbed.costs import MeanEnergy
from testbed.windows import mean_round, mean_run, unlike_rounds

GONE = Missing(why="none here")
CALM = Conditions(temperatures_c=GONE, throttling=GONE, clock_hz=GONE)


def readings(energy_j: float, duration_s: float) -> tuple[EnergyReading, ...]:
    return (
        EnergyReading(
            energy_j=energy_j,
            uncertainty_j=0.02 * energy_j,
            duration_s=duration_s,
            rail="VDD_IN",
            boundary=Boundary.MODULE_INPUT,
            method="integrated",
            coverage=1.0,
            n_samples=10,
            longest_gap_s=0.1,
            meter="jetson 1",
        ),
    )


def window(name: str, energy_j: float, duration_s: float) -> WindowRecord:
    return WindowRecord(
        name=name,
        start_mono_ns=0,
        duration_s=duration_s,
        cpu_s=0.0,
        measured=readings(energy_j, duration_s),
        modelled=GONE,
    )


def report(
    *windows: WindowRecord, phases_j: float, number: int = 0, client: str = "a"
) -> PhaseReport:
    """3 s of waiting at 2 W; then two phases of 1.9 s together."""
    waited = PhaseRecord(
        phase=Phase.IDLE,
        start_mono_ns=0,
        duration_s=3.0,
        cpu_s=0.0,
        measured=readings(6.0, 3.0),
        modelled=GONE,
    )
    work = tuple(
        PhaseRecord(
            phase=phase,
            start_mono_ns=0,
            duration_s=0.95,
            cpu_s=0.5,
            measured=readings(phases_j / 2, 0.95),
            modelled=GONE,
        )
        for phase in (Phase.EVALUATE, Phase.TRAIN)
    )
    return PhaseReport(
        ticket=Ticket(run_id="r", round=number, client_id=client),
        attempt=0,
        phases=(waited, *work),
        evaluation=None,
        clock_offset_s=0.0,
        clock_uncertainty_s=0.0,
        machine_card="",
        surroundings=Surroundings(start=CALM, end=CALM, windows=windows),
    )


@pytest.mark.parametrize(
    ("phases_j", "is_unlike"),
    # 10 J in 2 s: 0.1 s in no phase hold 0.5 J; uncertainties are 2 % of 10 J and of the phases.
    [(9.5, False), (8.7, False), (10.3, False), (8.5, True), (10.6, True)],
)
def test_a_round_is_the_sum_of_its_phases_or_it_is_said(phases_j: float, is_unlike: bool) -> None:
    one = report(window("round", 10.0, 2.0), phases_j=phases_j)
    assert unlike_rounds([one]) == [one] * is_unlike


def test_a_round_that_was_asked_for_twice_is_the_sum_of_both_windows() -> None:
    pytest.importorskip("scipy")  # intervals of means
    one = report(window("round", 9.0, 1.8), window("round", 1.0, 0.2), phases_j=9.5)
    assert unlike_rounds([one]) == []
    mean = mean_round([one, one])
    assert isinstance(mean, MeanEnergy)
    assert mean.value_j == pytest.approx(10.0)


def test_a_run_is_the_sum_of_what_lies_between_a_clients_reports() -> None:
    pytest.importorskip("scipy")  # intervals of means
    """Per client, never over clients: these two may share a meter."""
    reports = [
        report(window("run", 16.0, 5.0), phases_j=9.5, number=number, client=client)
        for number in range(3)
        for client in ("a", "b")
    ]
    mean = mean_run(reports)
    assert isinstance(mean, MeanEnergy)
    assert (mean.n, mean.value_j) == (2, pytest.approx(48.0))


def test_without_windows_nothing_is_said() -> None:
    one = report(phases_j=9.5)
    assert unlike_rounds([one]) == []
    assert isinstance(mean_round([one]), Missing)
    assert isinstance(mean_run([one]), Missing)
