"""Sensors whose values are up to a second old: the truth lies inside, and not by boasting."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.joules.traces import LATE, late
from hardware.integrate import integrate_power


@pytest.mark.parametrize("length_s", [1, 3])
@pytest.mark.parametrize("name", LATE)
def test_the_interval_of_a_late_value_holds_the_truth(name: str, length_s: int) -> None:
    """95 % of many, so of 120 at least 90 %; and within 4 times the error of many."""
    errors_j, stated_j = np.array(late(name, length_s=length_s, n=120)).T
    assert np.mean(np.abs(errors_j) <= stated_j) >= 0.9
    assert np.median(stated_j) <= 5 * np.sqrt(np.mean(errors_j**2))


def uncertainty_j(power_w: np.ndarray, *, update_s: float, end_s: float = 10.0) -> float:
    return integrate_power(
        np.linspace(-5, end_s, len(power_w)),
        power_w,
        start_s=0.0,
        end_s=end_s,
        max_gap_s=3.0,
        max_power_w=100.0,
        update_s=update_s,
    ).uncertainty_j


def test_a_held_value_that_changes_is_less_sure_than_one_that_stays() -> None:
    """Ten values of variance 4 W^2, each for 1 s: twice sqrt(10) * 2 J, where a sampler at 100 Hz
    of a prompt sensor would know the energy of what it saw."""
    changing = np.repeat(np.tile([3.0, 7.0], 8)[:15], 100)
    assert uncertainty_j(changing, update_s=1.0) >= 2 * np.sqrt(10) * 2
    assert uncertainty_j(changing, update_s=0.0) < 1
    steady = np.full(1500, 5.0)
    assert uncertainty_j(steady, update_s=1.0) == pytest.approx(2 * 5 / np.sqrt(24))


def test_a_window_shorter_than_an_update_is_anyones_guess() -> None:
    assert uncertainty_j(np.full(600, 5.0), update_s=1.0, end_s=0.9) >= 95 * 0.9
