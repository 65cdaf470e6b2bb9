"""Recovered input trains against those that the network received, [time, batch, feature...]."""

from __future__ import annotations

import math

import numpy as np

from fedcore.types import Missing
from testbed.metrics.base import DIVERGED, Metric, assign, mean_of

__all__ = [
    "ORDERED",
    "SPIKE_IOU",
    "TEMPORAL_CORRELATION",
    "VAN_ROSSUM",
    "match_frames",
    "score_trains",
    "spike_iou",
    "temporal_correlation",
    "van_rossum",
]

ORDERED = "ordered"
"""Certificate entry: 0 where an answer knows the frames of a train, and not when they came."""

TAU_STEPS = 2.0
"""Time constant of the van Rossum kernel, in steps."""

_NO_SPIKES = Missing(why="the input train is no spikes (its values are not -1, 0 or 1)")


def spike_iou(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Spikes in both trains over spikes in either, averaged over examples (1 is identical).

    A guess is rounded; a spike of the other sign counts against it; two silent trains are equal.
    """
    if not np.isin(truth, (-1, 0, 1)).all():
        return _NO_SPIKES
    if not np.isfinite(guess).all():
        return DIVERGED
    guess = np.rint(guess)
    axes = (0, *range(2, truth.ndim))
    n_both = ((truth == guess) & (truth != 0)).sum(axis=axes)
    n_either = ((truth != 0) | (guess != 0)).sum(axis=axes)
    return float(np.mean(np.where(n_either, n_both / np.maximum(n_either, 1), 1.0)))


def van_rossum(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Van Rossum distance per input neuron, averaged over neurons and examples (0 is identical).

    van Rossum 2001 (doi:10.1162/089976601300014321): both trains pass a causal exponential with a
    time constant of `TAU_STEPS`; the distance is the root of the integral of their squared
    difference over tau, to infinity, here a sum over steps.
    """
    decay = math.exp(-1 / TAU_STEPS)
    trace = np.zeros(truth.shape[1:])
    total = np.zeros(truth.shape[1:])
    for difference in truth.astype(np.float64) - guess.astype(np.float64):
        trace = decay * trace + difference
        total += trace**2
    total += trace**2 * decay**2 / (1 - decay**2)  # what follows the train's end
    return mean_of(np.sqrt(total / TAU_STEPS))


def temporal_correlation(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Pearson correlation over time, averaged over the neurons whose true input changes.

    A guess that does not change correlates with nothing, which counts as 0.
    """
    if not np.isfinite(guess).all():
        return DIVERGED
    first, second = (
        x.astype(np.float64) - x.mean(axis=0, dtype=np.float64) for x in (truth, guess)
    )
    changes = (first**2).sum(axis=0) > 0
    if not changes.any():
        return Missing(why="the input train is constant over time")
    scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    product = (first * second).sum(axis=0)
    values = np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
    return float(values[changes].mean())


def match_frames(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The guess with its frames where they fit the truth best, over all steps and examples.

    For an answer that knows which frames a batch had, and neither when nor whose.

    Args:
        truth: [time, batch, feature...].
        guess: finite, in the same shape.
    """
    n_frames = truth.shape[0] * truth.shape[1]
    true_frames, frames = (x.reshape(n_frames, -1).astype(np.float64) for x in (truth, guess))
    likeness = true_frames @ frames.T
    order = assign((frames**2).sum(axis=1) - 2 * likeness)
    matched: np.ndarray = guess.reshape(n_frames, -1)[order].reshape(guess.shape)
    return matched


def score_trains(
    metric: Metric, truth: np.ndarray, guess: np.ndarray | None, *, is_ordered: bool
) -> float | Missing:
    """One metric of trains, of an answer that may not know when its frames came.

    Args:
        metric: of trains.
        truth: [time, batch, feature...].
        guess: the same, or None.
        is_ordered: False lines the frames up with the truth's first.
    """
    if guess is None:
        return Missing(why="the attack does not say what the network received")
    if guess.shape != truth.shape:
        return Missing(why=f"trains of shape {guess.shape}; the network received {truth.shape}")
    if is_ordered or not np.isfinite(guess).all():
        return metric.of_pair(truth, guess)
    if metric.needs_order:
        return Missing(why="the attack does not say when each frame came")
    return metric.of_pair(truth, match_frames(truth, guess))


SPIKE_IOU = Metric(
    score=spike_iou,
    label="spike IoU",
    unit="",
    of="trains",
    higher_is_better=True,
    best=1.0,
    digits=3,
)
VAN_ROSSUM = Metric(
    score=van_rossum,
    label="van Rossum distance (tau 2 steps)",
    unit="",
    of="trains",
    higher_is_better=False,
    best=0.0,
    digits=3,
    needs_order=True,
)
TEMPORAL_CORRELATION = Metric(
    score=temporal_correlation,
    label="temporal correlation",
    unit="",
    of="trains",
    higher_is_better=True,
    best=1.0,
    digits=3,
    needs_order=True,
    is_symmetric=False,
)
