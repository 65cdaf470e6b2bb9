"""From an estimate in real numbers to multisets of labels."""

from __future__ import annotations

import numpy as np

__all__ = ["label_guesses", "rounded"]

_NEARLY = -0.5  # cost of a move: -1 where both multisets are as near, 0 from whole numbers


def rounded(estimate: np.ndarray, *, total: int) -> np.ndarray:
    """Whole numbers >= 0 that sum to `total`, each step away from the estimate a cheapest one.

    Args:
        estimate: examples of each class, [class]; its sum need not be `total`.
        total: number of examples.

    Returns:
        int64 [class].
    """
    counts: np.ndarray = np.rint(np.clip(estimate, 0, total)).astype(np.int64)
    while (surplus := int(counts.sum()) - total) != 0:
        too_high = counts - estimate
        if surplus > 0:
            counts[np.argmax(np.where(counts > 0, too_high, -np.inf))] -= 1
        else:
            counts[np.argmin(too_high)] += 1
    return counts


def label_guesses(
    estimate: np.ndarray, *, total: int, n_guesses: int
) -> tuple[tuple[np.ndarray, ...], float]:
    """The nearest multiset of labels, and others in one label that are nearly as near.

    Args:
        estimate: examples of each class, [class].
        total: number of examples.
        n_guesses: at most so many.

    Returns:
        Labels in ascending order, int64 [example] each, the nearest first; and how many labels
        the nearest one differs from the estimate, in examples.
    """
    nearest = rounded(estimate, total=total)
    too_high = nearest - estimate
    cost = too_high[None, :] - too_high[:, None]  # [from, to] of moving one label
    cost[nearest == 0] = np.inf
    np.fill_diagonal(cost, np.inf)
    guesses = [nearest]
    for flat in np.argsort(cost, axis=None, kind="stable")[: n_guesses - 1]:
        source, target = np.unravel_index(flat, cost.shape)
        if cost[source, target] < _NEARLY:
            moved = nearest.copy()
            moved[source] -= 1
            moved[target] += 1
            guesses.append(moved)
    classes = np.arange(len(nearest))
    labels = tuple(np.repeat(classes, counts) for counts in guesses)
    return labels, float(np.abs(too_high).sum() / 2)
