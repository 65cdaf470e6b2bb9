"""Whole counts from an estimate, and the multisets that restarts try."""

from __future__ import annotations

import numpy as np
import pytest

from attacker.labels.counts import label_guesses, rounded


@pytest.mark.parametrize("seed", range(20))
def test_rounded_counts_are_the_nearest_whole_ones_of_their_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    estimate, total = rng.normal(1.0, 1.5, size=4), int(rng.integers(1, 7))
    found = rounded(estimate, total=total)
    assert found.sum() == total
    assert found.min() >= 0
    every = np.array([k for k in np.ndindex(*[total + 1] * 4) if sum(k) == total])
    distances = ((every - estimate) ** 2).sum(axis=1)
    assert ((found - estimate) ** 2).sum() == pytest.approx(distances.min())


def test_an_estimate_of_whole_numbers_is_kept() -> None:
    counts = np.array([0, 3, 1, 0, 12])
    np.testing.assert_array_equal(rounded(counts.astype(float), total=16), counts)


def test_guesses_come_in_order_and_differ_in_one_label() -> None:
    estimate = np.array([1.6, 0.4, 1.0, 0.0])
    guesses, away = label_guesses(estimate, total=3, n_guesses=3)
    assert guesses[0].tolist() == [0, 0, 2]
    assert guesses[1].tolist() == [0, 1, 2]
    assert away == pytest.approx(0.4)
    counts = [np.bincount(labels, minlength=4) for labels in guesses]
    distances = [((k - estimate) ** 2).sum() for k in counts]
    assert distances == sorted(distances)
    assert all(np.abs(k - counts[0]).sum() == 2 for k in counts[1:])


def test_a_clear_estimate_gives_one_guess() -> None:
    guesses, away = label_guesses(np.array([2.1, 0.0]), total=2, n_guesses=9)
    assert [labels.tolist() for labels in guesses] == [[0, 0]]
    assert away == pytest.approx(0.05)
