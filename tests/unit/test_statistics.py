"""Intervals against scipy's own tests, which are computed another way."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.types import Missing
from testbed.statistics import (
    Estimate,
    Share,
    clustered_mean,
    mean_with_interval,
    share_with_interval,
    welch_difference,
)

scipy_stats = pytest.importorskip("scipy.stats")

numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=30).filter(lambda v: np.std(v) > 1e-3)


@given(numbers)
def test_t_interval_is_the_one_of_the_t_test(values: list[float]) -> None:
    found = mean_with_interval(values)
    oracle = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert isinstance(found, Estimate)
    assert found.low == pytest.approx(oracle.low, abs=1e-6)
    assert found.high == pytest.approx(oracle.high, abs=1e-6)
    assert found.n == len(values)


@given(numbers, numbers)
def test_welch_is_scipys(first: list[float], second: list[float]) -> None:
    found = welch_difference(first, second)
    oracle = scipy_stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert isinstance(found, Estimate)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=1e-6)


@given(st.integers(1, 60), st.data())
def test_wilson_is_scipys(n: int, data: st.DataObject) -> None:
    n_yes = data.draw(st.integers(0, n))
    found = share_with_interval(n_yes, n)
    oracle = scipy_stats.binomtest(n_yes, n).proportion_ci(0.95, method="wilson")
    assert isinstance(found, Share)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_without_enough_values_nothing_is_claimed() -> None:
    single = mean_with_interval([3.0])
    assert isinstance(single, Estimate)
    assert single.value == 3.0
    assert isinstance(single.half_width, Missing)
    assert not single.is_above_zero
    assert isinstance(mean_with_interval([]), Missing)
    assert isinstance(share_with_interval(0, 0), Missing)
    assert isinstance(welch_difference([1.0], [1.0, 2.0]), Missing)


def test_values_without_spread_are_not_certain() -> None:
    """24 of 24 labels right do not show that the 25th will be (Wilson says 86 % and more)."""
    for found in (mean_with_interval([1.0] * 24), welch_difference([2.0, 2.0], [1.0, 1.0])):
        assert isinstance(found, Estimate)
        assert found.value == 1.0
        assert isinstance(found.half_width, Missing)
        assert "without spread" in found.half_width.why
        assert not found.is_above_zero


@pytest.mark.parametrize(("value", "half_width", "sign"), [(1, 0.5, 1), (-1, 0.5, -1), (1, 2, 0)])
def test_a_sign_needs_the_whole_interval(value: float, half_width: float, sign: int) -> None:
    found = Estimate(value=value, half_width=half_width, n=5)
    assert found.is_above_zero - found.is_below_zero == sign
    assert math.isclose(found.high - found.low, 2 * half_width)


def test_clusters_of_equal_values_count_once() -> None:
    """Repeating a client's values makes nothing more certain; treating them as new ones would."""
    values, clients = [1.0, 3.0, 8.0], ["a", "b", "c"]
    once = clustered_mean(values, clusters=clients)
    again = clustered_mean(values * 5, clusters=clients * 5)
    assert isinstance(once, Estimate)
    assert again == once == mean_with_interval(values)
    assert mean_with_interval(values * 5).half_width < once.half_width / 2


def test_a_cluster_with_more_values_weighs_no_more() -> None:
    found = clustered_mean([1.0, 1.0, 1.0, 5.0], clusters=["a", "a", "a", "b"])
    assert isinstance(found, Estimate)
    assert (found.value, found.n) == (3.0, 2)
    assert isinstance(clustered_mean([1.0, 2.0], clusters=["a", "a"]).half_width, Missing)
