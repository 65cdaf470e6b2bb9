"""Faults of counters and windows: each is flagged, none becomes a number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedcore.errors import MeterError
from hardware.integrate import WindowEnergy, integrate_counter, integrate_power

WRAP_J = 262143.328850


def counted(
    values_j: list[float],
    *,
    step_s: float = 0.1,
    wraps_at_j: float | None = WRAP_J,
    start_s: float = 0.0,
    end_s: float | None = None,
    update_s: float = 1e-3,
) -> WindowEnergy:
    t_s = np.arange(len(values_j)) * step_s
    return integrate_counter(
        t_s,
        np.array(values_j),
        start_s=start_s,
        end_s=t_s[-1] if end_s is None else end_s,
        max_gap_s=0.3,
        max_power_w=1000.0,
        wraps_at_j=wraps_at_j,
        resolution_j=6.1e-5,
        update_s=update_s,
        gain_error=0.05,
    )


def test_one_wrap_is_counted_and_named() -> None:
    energy = counted([262143.0, 0.5])
    assert energy.energy_j == pytest.approx(0.828850)
    assert energy.flags == ("wrapped",)
    assert energy.coverage == 1


def test_a_counter_that_may_have_wrapped_twice_is_lost() -> None:
    """600 s at up to 1000 W are more than two turns of 262 kJ."""
    with pytest.raises(MeterError, match="cover"):
        counted([100.0, 90.0], step_s=600.0)
    partly = integrate_counter(
        np.array([0.0, 600.0, 600.1]),
        np.array([100.0, 90.0, 91.0]),
        start_s=0.0,
        end_s=600.1,
        max_gap_s=0.3,
        max_power_w=1000.0,
        wraps_at_j=WRAP_J,
    )
    assert partly.energy_j == pytest.approx(1.0)
    assert partly.coverage == pytest.approx(0.1 / 600.1)
    assert "double-wrap" in partly.flags


def test_a_reset_is_no_wrap() -> None:
    energy = counted([5000.0, 5001.0, 0.5, 1.5])
    assert energy.energy_j == pytest.approx(2.0)
    assert energy.coverage == pytest.approx(2 / 3)
    assert energy.flags == ("counter-reset",)


@pytest.mark.parametrize("wraps_at_j", [WRAP_J, None])
def test_a_jump_that_no_processor_can_draw_is_no_energy(wraps_at_j: float | None) -> None:
    energy = counted([1.0, 2.0, 9000.0, 9001.0], wraps_at_j=wraps_at_j)
    assert energy.energy_j == pytest.approx(2.0)
    assert "counter-reset" in energy.flags


def test_a_counter_of_unknown_range_that_falls_is_a_lost_piece() -> None:
    energy = counted([262143.0, 0.5, 1.5], wraps_at_j=None)
    assert energy.energy_j == pytest.approx(1.0)
    assert energy.coverage == pytest.approx(0.5)


def test_a_counter_that_stands_still_is_no_zero() -> None:
    with pytest.raises(MeterError, match="stood still"):
        counted([7.0] * 5)
    assert counted([7.0, 7.0], step_s=1e-3).energy_j == 0  # shorter than it takes to tell


def test_a_short_window_knows_that_its_counter_stood_still_before() -> None:
    """20 ms without a step prove nothing; the 0.3 s before them, without one either, do."""
    with pytest.raises(MeterError, match="stood still"):
        counted([7.0] * 5, start_s=0.3, end_s=0.32)
    moved = counted([6.0, 7.0, 7.0, 7.0, 7.0], start_s=0.3, end_s=0.32)
    assert moved.energy_j == 0
    assert moved.uncertainty_j > 0


def test_a_short_window_knows_the_power_around_it() -> None:
    """0.4 ms without a step of the counter, in a trace of 50 W: an age of up to 1 ms is 50 mJ."""
    energy = integrate_counter(
        np.array([0.0, 0.1, 0.1004]),
        np.array([10.0, 15.0, 15.0]),
        start_s=0.1,
        end_s=0.1004,
        max_gap_s=0.3,
        max_power_w=1000.0,
        update_s=1e-3,
    )
    assert energy.energy_j == pytest.approx(0)
    assert energy.uncertainty_j == pytest.approx(50 * 1e-3, rel=0.01)


def test_a_gap_inside_costs_a_counter_nothing_but_one_over_an_edge_does() -> None:
    inside = counted([0.0, 10.0], step_s=1.0)
    assert (inside.energy_j, inside.coverage) == (10.0, 1.0)
    assert inside.flags == ("gap",)
    cut = counted([0.0, 10.0, 20.0], step_s=1.0, start_s=0.5)
    assert cut.energy_j == pytest.approx(10.0)
    assert cut.coverage == pytest.approx(1 / 1.5)


def test_gain_is_part_of_the_uncertainty() -> None:
    assert counted([0.0, 50.0, 100.0]).uncertainty_j == pytest.approx(5.0, rel=0.01)


def test_few_samples_are_named() -> None:
    t_s, power_w = np.array([0.0, 0.1]), np.array([1.0, 3.0])
    energy = integrate_power(t_s, power_w, start_s=0.0, end_s=0.1, max_gap_s=0.3, max_power_w=10.0)
    assert energy.flags == ("few-samples",)
    assert energy.n_samples == 2
    # Between the two, the rail drew something up to 10 W for 0.1 s: up to 0.8 J more than 0.2 J.
    assert energy.uncertainty_j == pytest.approx(0.8)


@pytest.mark.parametrize("values", [[], [1.0], [math.nan, 1.0], [math.nan] * 3])
def test_less_than_two_samples_are_no_energy(values: list[float]) -> None:
    t_s = np.arange(len(values)) * 0.1
    with pytest.raises(MeterError, match="samples do not cover"):
        integrate_power(
            t_s, np.array(values), start_s=0.0, end_s=0.1, max_gap_s=1.0, max_power_w=10.0
        )


def test_a_window_has_a_length() -> None:
    with pytest.raises(MeterError, match="no length"):
        integrate_power(
            np.arange(3.0), np.ones(3), start_s=1.0, end_s=1.0, max_gap_s=2.0, max_power_w=10.0
        )
