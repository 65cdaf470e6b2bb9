"""Laws of integration: parts sum to the whole, wraps cost nothing, the interval is honest."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import MeterError
from fedcore.seeds import stream
from hardware.integrate import WindowEnergy, integrate_counter, integrate_power

WRAP_J = 262143.328850  # of a real package counter
GRID_J = 2e-3  # a jump of 10 W that lies anywhere in a step of the grid of 0.2 ms

Trace = tuple[np.ndarray, np.ndarray]


@st.composite
def traces(draw: st.DrawFn, low: float = 0.0, high: float = 50.0) -> Trace:
    """Sample times with steps of 1 to 200 ms, and a value at each."""
    steps = draw(st.lists(st.integers(1, 200), min_size=2, max_size=40))
    t_s = np.cumsum([0, *steps]) * 1e-3
    values = st.lists(st.floats(low, high), min_size=len(t_s), max_size=len(t_s))
    return t_s, np.array(draw(values))


shares = st.lists(st.integers(10, 990), min_size=3, max_size=3, unique=True).map(
    lambda thousandths: [n / 1000 for n in sorted(thousandths)]  # no two that rounding makes one
)


def power(trace: Trace, start: float, end: float, max_power_w: float = 50.0) -> WindowEnergy:
    return integrate_power(*trace, start_s=start, end_s=end, max_gap_s=1.0, max_power_w=max_power_w)


def counter(trace: Trace, start: float, end: float, **options: float) -> WindowEnergy:
    settings = {"max_gap_s": 1.0, "max_power_w": 1e6, **options}
    return integrate_counter(*trace, start_s=start, end_s=end, **settings)


def slowly(t_s: np.ndarray, power_w: np.ndarray, start: float, end: float) -> float:
    """The same integral by its definition, on a grid that holds every corner."""
    corners = np.unique(np.concatenate([t_s, [start, end]]))
    corners = corners[(corners >= start) & (corners <= end)]
    return math.fsum(
        (b - a) * float(np.interp((a + b) / 2, t_s, power_w))
        for a, b in itertools.pairwise(corners)
    )


@given(trace=traces(), where=shares)
def test_power_is_integrated_as_defined_and_halves_sum_to_the_whole(
    trace: Trace, where: list[float]
) -> None:
    start, middle, end = (float(trace[0][-1]) * share for share in where)
    whole = power(trace, start, end)
    assert whole.energy_j == pytest.approx(slowly(*trace, start, end), abs=1e-9)
    halves = power(trace, start, middle).energy_j + power(trace, middle, end).energy_j
    assert halves == pytest.approx(whole.energy_j, abs=1e-9)
    assert whole.coverage == 1.0


@given(trace=traces(), where=shares, origin=st.floats(0, WRAP_J))
def test_a_wrapped_counter_still_counts(trace: Trace, where: list[float], origin: float) -> None:
    t_s, steps_j = trace
    start, middle, end = (float(t_s[-1]) * share for share in where)
    counted_j = np.cumsum(steps_j)
    wrapped = (t_s, (origin + counted_j) % WRAP_J)
    expected_j = float(np.interp(end, t_s, counted_j) - np.interp(start, t_s, counted_j))
    whole = counter(wrapped, start, end, wraps_at_j=WRAP_J, max_power_w=1e5)
    assert whole.energy_j == pytest.approx(expected_j, abs=1e-6)
    halves = [
        counter(wrapped, a, b, wraps_at_j=WRAP_J, max_power_w=1e5).energy_j
        for a, b in ((start, middle), (middle, end))
    ]
    assert sum(halves) == pytest.approx(whole.energy_j, abs=1e-6)
    assert whole.coverage == 1.0


@given(trace=traces(), where=shares, factor=st.floats(0.1, 10))
def test_energy_and_uncertainty_scale_with_power(
    trace: Trace, where: list[float], factor: float
) -> None:
    t_s, power_w = trace
    start, _, end = (float(t_s[-1]) * share for share in where)
    one = power(trace, start, end, max_power_w=50.0)
    more = power((t_s, factor * power_w), start, end, max_power_w=50.0 * factor)
    assert more.energy_j == pytest.approx(factor * one.energy_j)
    assert more.uncertainty_j == pytest.approx(factor * one.uncertainty_j, abs=1e-12)


@given(trace=traces(), beyond=st.floats(0.01, 5))
def test_nothing_is_extrapolated(trace: Trace, beyond: float) -> None:
    t_s, _ = trace
    last = float(t_s[-1])
    inside, longer = power(trace, 0.0, last), power(trace, -beyond, last + beyond)
    assert longer.energy_j == pytest.approx(inside.energy_j)
    assert longer.coverage == pytest.approx(last / (last + 2 * beyond))
    assert "edge" in longer.flags
    assert "edge" not in inside.flags
    with pytest.raises(MeterError, match="cover"):
        power(trace, last + 1, last + 2)


@given(trace=traces(), lost=st.data())
def test_a_sample_that_is_nan_is_a_sample_that_was_not_taken(
    trace: Trace, lost: st.DataObject
) -> None:
    t_s, power_w = trace
    index = lost.draw(st.integers(1, len(t_s) - 2))
    with_nan = power_w.copy()
    with_nan[index] = math.nan
    without = (np.delete(t_s, index), np.delete(power_w, index))
    assert power((t_s, with_nan), 0.0, float(t_s[-1])) == power(without, 0.0, float(t_s[-1]))


@given(trace=traces(), gap=st.data())
def test_a_gap_is_left_out_and_flagged(trace: Trace, gap: st.DataObject) -> None:
    t_s, power_w = trace
    before = gap.draw(st.integers(1, len(t_s) - 1))
    later = np.where(np.arange(len(t_s)) >= before, t_s + 10.0, t_s)  # suspended for 10 s
    seen = power((later, power_w), 0.0, float(later[-1]))
    parts = [
        slowly(t_s, power_w, float(t_s[a]), float(t_s[b]))
        for a, b in ((0, before - 1), (before, len(t_s) - 1))
    ]
    assert seen.energy_j == pytest.approx(sum(parts), abs=1e-9)
    assert seen.coverage < 1
    assert "gap" in seen.flags
    assert seen.longest_gap_s > 10


def a_load(kind: str, rng: np.random.Generator) -> Trace:
    """Power on a fine grid: bursts, steps, a sine, a random walk, or fast noise."""
    t_s = np.arange(0, rng.uniform(2, 8), 2e-4)
    if kind == "bursts":
        period_s, duty = rng.uniform(0.05, 2), rng.uniform(0.1, 0.9)
        phase = (t_s / period_s + rng.random()) % 1
        return t_s, np.where(phase < duty, 7.0, 3.0)
    if kind == "steps":
        edges = np.sort(rng.uniform(0, t_s[-1], rng.integers(1, 15)))
        return t_s, rng.uniform(1, 10, len(edges) + 1)[np.searchsorted(edges, t_s)]
    if kind == "sine":
        turns = t_s / rng.uniform(0.1, 5) + rng.random()
        return t_s, 5 + rng.uniform(0.5, 3) * np.sin(2 * np.pi * turns)
    if kind == "walk":
        steps_w = rng.normal(0, rng.uniform(0.5, 4) * math.sqrt(2e-4), len(t_s))
        return t_s, np.clip(5 + np.cumsum(steps_w), 0.5, 20)
    return t_s, 5 + np.repeat(rng.normal(0, 1, len(t_s) // 20 + 1), 20)[: len(t_s)]


def jittered(rng: np.random.Generator, begin_s: float, end_s: float) -> np.ndarray:
    """Instants of the sampler at 10 Hz, as `hardware.sampler.next_instant_ns` draws them."""
    gaps_s = 0.1 * rng.uniform(0.5, 1.5, math.ceil((end_s - begin_s) / 0.05))
    at_s = begin_s + 0.1 * rng.random() + np.cumsum(gaps_s) - gaps_s[0]
    return at_s[at_s < end_s]


def ten_hz(rng: np.random.Generator, load: Trace) -> tuple[Trace, float]:
    """The load as a jittered sampler at 10 Hz sees it, and the energy it really had."""
    t_s, power_w = load
    at_s = jittered(rng, 0.0, t_s[-1])
    at_s = np.concatenate([[0], at_s, [t_s[-1]]])
    return (at_s, np.interp(at_s, t_s, power_w)), float(counted(load)[-1])


def counted(load: Trace) -> np.ndarray:
    """The energy of a load since its begin, at each of its times."""
    t_s, power_w = load
    steps_j = (power_w[1:] + power_w[:-1]) / 2 * np.diff(t_s)
    return np.concatenate([[0.0], np.cumsum(steps_j)])


@pytest.mark.parametrize("kind", ["bursts", "steps", "sine", "walk", "noise"])
def test_the_truth_lies_in_the_stated_interval(kind: str) -> None:
    """For at least 95 % of 500 loads, with an interval that is not absurdly wide."""
    rng = stream(0, "loads", kind)
    errors_j, stated_j = [], []
    for _ in range(500):
        (at_s, at_w), true_j = ten_hz(rng, a_load(kind, rng))
        seen = power((at_s, at_w), 0.0, float(at_s[-1]))
        errors_j.append(seen.energy_j - true_j)
        stated_j.append(seen.uncertainty_j)
    assert np.mean(np.abs(errors_j) <= stated_j) >= 0.95
    assert np.median(stated_j) <= 4 * math.sqrt(np.mean(np.square(errors_j)))


@pytest.mark.parametrize("busy_s", [0.005, 0.03, 0.08, 0.15, 0.3])
def test_a_phase_shorter_than_a_few_periods_has_an_honest_interval(busy_s: float) -> None:
    """A rail at rest works in the window alone, so that both edge samples see it at rest."""
    rng = stream(0, "short", str(busy_s))
    covered = []
    for _ in range(500):
        edges_s = [-1e-4, busy_s + 1e-4]
        at_s = np.sort(np.append(jittered(rng, -0.4, edges_s[1]), edges_s))
        at_w = np.where((at_s > 0) & (at_s < busy_s), 7.0, 3.0)
        seen = power((at_s, at_w), 0.0, busy_s, max_power_w=10.0)
        covered.append(abs(seen.energy_j - 7.0 * busy_s) <= seen.uncertainty_j)
    assert np.mean(covered) >= 0.95


def test_the_half_split_alone_would_not_be_honest() -> None:
    """Why the interval is a root of squares: one difference is small by luck far too often."""
    rng = stream(0, "half-split")
    covered = []
    for _ in range(500):
        (at_s, at_w), true_j = ten_hz(rng, a_load("bursts", rng))
        end_s = float(at_s[-1])
        odd_j, even_j = (
            power((at_s[kept], at_w[kept]), 0.0, end_s).energy_j
            for first in (1, 2)
            for kept in [np.r_[0, first : len(at_s) - 1 : 2, len(at_s) - 1]]
        )
        error_j = power((at_s, at_w), 0.0, end_s).energy_j - true_j
        covered.append(abs(error_j) <= abs(odd_j - even_j) / 2)
    assert np.mean(covered) < 0.8


def test_rounding_of_a_steady_load_is_covered() -> None:
    """Readings that never change are all wrong by the same: up to half a step."""
    rng = stream(0, "steady")
    t_s = np.arange(0, 5, 0.1)
    covered = []
    for level_w in rng.uniform(1, 10, 500):
        shown_w = np.full_like(t_s, round(level_w / 0.4) * 0.4)
        seen = integrate_power(
            t_s,
            shown_w,
            start_s=0.0,
            end_s=4.9,
            max_gap_s=1.0,
            max_power_w=50.0,
            resolution_w=0.4,
        )
        covered.append(abs(seen.energy_j - level_w * 4.9) <= seen.uncertainty_j)
    assert np.mean(covered) >= 0.95


def late(rng: np.random.Generator, load: Trace, update_s: float) -> np.ndarray:
    """What a sensor shows that lags by some share of its update: old, held, or a running mean."""
    t_s, power_w = load
    kind = rng.integers(3)
    if kind == 0:
        return np.interp(t_s - update_s * rng.random(), t_s, power_w)
    if kind == 1:
        phase = rng.random()
        return np.interp((np.floor(t_s / update_s + phase) - phase) * update_s, t_s, power_w)
    counted_j = counted(load)
    begin_s = np.maximum(t_s - update_s, t_s[0])
    length_s = np.maximum(t_s - begin_s, 1e-9)
    return (counted_j - np.interp(begin_s, t_s, counted_j)) / length_s


@pytest.mark.parametrize("kind", ["bursts", "steps", "sine", "walk", "noise"])
@pytest.mark.parametrize("update_s", [0.1, 0.5, 1.0])
def test_the_age_of_a_power_is_covered(kind: str, update_s: float) -> None:
    """A window cut out of a load whose sensor lags: what it shows belongs to an earlier one."""
    rng = stream(0, "late", kind, str(update_s))
    covered = []
    for _ in range(200):
        load = a_load(kind, rng)
        t_s = load[0]
        shown_w = late(rng, load, update_s)
        start_s, end_s = np.sort(rng.uniform(min(update_s, t_s[-1] / 2), t_s[-1], 2))
        at_s = np.append(jittered(rng, max(0.0, start_s - 0.3), end_s), [start_s - 1e-4, end_s])
        at_s.sort()
        seen = integrate_power(
            at_s,
            np.interp(at_s, t_s, shown_w),
            start_s=start_s,
            end_s=end_s,
            max_gap_s=1.0,
            max_power_w=20.0,
            update_s=update_s,
        )
        true_j = float(np.diff(np.interp([start_s, end_s], t_s, counted(load)))[0])
        covered.append(abs(seen.energy_j - true_j) <= seen.uncertainty_j + GRID_J)
    assert np.mean(covered) >= 0.95


def test_a_window_that_a_slow_sensor_never_saw_states_what_it_could_have_been() -> None:
    """0.3 s of work at 9 W under a sensor that is 1 s late: it shows the 3 W of before."""
    at_s = np.arange(-0.3, 0.35, 0.05)
    seen = integrate_power(
        at_s,
        np.full_like(at_s, 3.0),
        start_s=0.0,
        end_s=0.3,
        max_gap_s=1.0,
        max_power_w=10.0,
        update_s=1.0,
    )
    assert abs(seen.energy_j - 9 * 0.3) <= seen.uncertainty_j


def test_an_old_counter_value_is_covered() -> None:
    """A counter that advances once per millisecond, read at any time."""
    rng = stream(0, "counter")
    covered = []
    for _ in range(500):
        watts, start = rng.uniform(5, 100), rng.uniform(0, 1)
        t_s = start + np.array([0.0, rng.uniform(2e-3, 0.1)])
        shown_j = np.floor((t_s + rng.random()) / 1e-3) * 1e-3 * watts
        seen = counter((t_s, shown_j), t_s[0], t_s[1], update_s=1e-3)
        covered.append(abs(seen.energy_j - watts * (t_s[1] - t_s[0])) <= seen.uncertainty_j)
    assert np.mean(covered) >= 0.95
