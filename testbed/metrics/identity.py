"""Who is it: labels that are right, and examples that are found again in a pool."""

from __future__ import annotations

import numpy as np

from fedcore.types import Missing
from testbed.metrics.base import Metric

__all__ = [
    "IDENTIFIED",
    "LABEL_ACCURACY",
    "POOL_RANK",
    "REIDENTIFIED",
    "identified",
    "label_accuracy",
    "pool_rank",
    "reidentified",
]


def label_accuracy(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Share of right labels, int64 [batch] each."""
    return float(np.mean(truth == guess))


def pool_rank(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Mean rank of the true example among everything in a pool, by distance to the guess.

    1 is the nearest; equally near examples share the mean of their ranks, so that a guess which
    says nothing ranks in the middle.

    Args:
        truth: places of the true examples in the pool, int64 [batch].
        guess: distances to everything in the pool, [batch, pool].
    """
    own = np.take_along_axis(guess, truth[:, None], axis=1)
    n_nearer, n_level = (guess < own).sum(axis=1), (guess == own).sum(axis=1)
    return float(np.mean(n_nearer + (n_level + 1) / 2))


def reidentified(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Share of guesses whose nearest neighbour in a pool is the true example; see `pool_rank`.

    Chance is 1 over the pool's size. A tie is not found.
    """
    own = np.take_along_axis(guess, truth[:, None], axis=1)
    return float(np.mean((guess <= own).sum(axis=1) == 1))


def identified(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Share of guesses to which no class of a gallery is nearer than the true one.

    Where classes are people, and the gallery holds other pictures of them, this is identification
    in a closed set. Chance is 1 over the number of classes; a tie is not found.

    Args:
        truth: true classes, int64 [batch].
        guess: distances to the nearest example of each class, infinite for a class that the
            gallery lacks, [batch, class].
    """
    own = np.take_along_axis(guess, truth[:, None], axis=1)
    if not np.isfinite(own).all():
        n_strangers = int((~np.isfinite(own)).sum())
        return Missing(why=f"the gallery shows no other example of {n_strangers} classes")
    return float(np.mean((guess <= own).sum(axis=1) == 1))


IDENTIFIED = Metric(
    score=identified,
    label="identified",
    unit="",
    of="classes",
    is_symmetric=False,
    higher_is_better=True,
    best=1.0,
    digits=2,
)
LABEL_ACCURACY = Metric(
    score=label_accuracy,
    label="label accuracy",
    unit="",
    of="labels",
    higher_is_better=True,
    best=1.0,
    digits=2,
)
POOL_RANK = Metric(
    score=pool_rank,
    label="rank in pool",
    unit="",
    of="identity",
    is_symmetric=False,
    higher_is_better=False,
    best=1.0,
    digits=1,
)
REIDENTIFIED = Metric(
    score=reidentified,
    label="re-identified",
    unit="",
    of="identity",
    is_symmetric=False,
    higher_is_better=True,
    best=1.0,
    digits=2,
)
