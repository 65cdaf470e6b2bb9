"""Scores of series, [batch, channel, time]."""

from __future__ import annotations

import numpy as np

from fedcore.types import Missing
from testbed.metrics.base import DIVERGED, Metric, mean_of

__all__ = ["CORRELATION", "SMAPE", "correlation", "smape"]


def smape(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Symmetric mean absolute percentage error, 0 to 200 % (0 is identical).

    |t - g| / ((|t| + |g|) / 2) in percent, averaged over values; where both are zero they agree.
    """
    true, guessed = truth.astype(np.float64), guess.astype(np.float64)
    size = (np.abs(true) + np.abs(guessed)) / 2
    shares = np.divide(np.abs(true - guessed), size, out=np.zeros_like(size), where=size != 0)
    return mean_of(100 * shares)


def correlation(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Pearson correlation over time, averaged over the channels that change (1 is identical).

    A guess that does not change correlates with nothing, which counts as 0.
    """
    if not np.isfinite(guess).all():
        return DIVERGED
    first, second = (
        x.astype(np.float64) - x.mean(axis=-1, keepdims=True, dtype=np.float64)
        for x in (truth, guess)
    )
    power = (first**2).sum(axis=-1)
    if not power.any():
        return Missing(why="no channel of the series changes over time")
    scale = np.sqrt(power * (second**2).sum(axis=-1))
    product = (first * second).sum(axis=-1)
    values = np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
    return float(values[power > 0].mean())


SMAPE = Metric(
    score=smape,
    label="sMAPE",
    unit="%",
    of="inputs",
    higher_is_better=False,
    best=0.0,
    digits=1,
    applies_to="series",
)
CORRELATION = Metric(
    score=correlation,
    label="correlation",
    unit="",
    of="inputs",
    higher_is_better=True,
    best=1.0,
    digits=3,
    applies_to="series",
    is_symmetric=False,
)
