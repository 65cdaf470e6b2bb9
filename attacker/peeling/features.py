"""What the readout's gradient says about its inputs: their weighted mean, and whole spike trains.

With logits = sum over t of c[t] (W x[t] + b), see `fedcore.nn.functional.step_weights`, and r the
gradient of one example's loss in its logits,

    dL/dW = r (sum over t of c[t] x[t])^T        dL/db = r sum over t of c[t].

Their ratio is the mean of x[t] weighted by c[t]. Where x is spikes and the 2^T sums of a subset of
the c[t] differ, each feature's mean gives away its train.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

__all__ = ["Decoded", "decode_trains", "mean_features", "rank_excess"]

_MAX_STEPS = 12  # beyond, sums lie closer together than float32 resolves
_SMALLEST_GAP = 2e-7


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Spike trains read from weighted means.

    Attributes:
        trains: in {0, 1}, [time, feature].
        deviation: the largest distance of a mean from that of the train it was read as.
        misfit: the distances' root mean square beside that of values anywhere between
            neighbouring sums: 0 is exact, about 1 what means that come from no spikes have. A
            small one proves spikes behind the features, not which of two near sums it was.
    """

    trains: np.ndarray
    deviation: float
    misfit: float


def mean_features(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Features of a batch of one, averaged over time, [feature].

    The least-squares fit over all classes of weight = bias features^T: a class counts by the
    square of its bias gradient, so that noise on small ones does little harm.

    Args:
        weight: gradient in the readout's weight, [class, feature].
        bias: gradient in its bias, [class], not all zero.
    """
    b = bias.astype(np.float64)
    b = b / np.abs(b).max()
    scale = np.abs(bias).max().astype(np.float64)
    means: np.ndarray = b @ (weight.astype(np.float64) / scale) / (b @ b)
    return means.astype(np.float32)


def rank_excess(weight: np.ndarray, bias: np.ndarray) -> float:
    """How far the readout's gradient is from that of one example: second singular value over first.

    0 for a batch of one that no defence has touched, up to rounding.
    """
    first, second = np.linalg.svd(np.column_stack([weight, bias]), compute_uv=False)[:2]
    return float(second / first)


def decode_trains(means: np.ndarray, step_weights: np.ndarray) -> Decoded | None:
    """The spike trains with these weighted means.

    Args:
        means: averaged over time with weights c[t], [feature].
        step_weights: c, [time].

    Returns:
        The trains, or None where different trains have equal means (two steps count alike, for
        example), or where there are too many steps to tell them apart.
    """
    n_steps = len(step_weights)
    if n_steps > _MAX_STEPS:
        return None
    subsets = np.array(list(itertools.product((0, 1), repeat=n_steps)), dtype=np.float32)
    sums = subsets @ (step_weights / step_weights.sum())
    order = np.argsort(sums)
    subsets, sums = subsets[order], sums[order]
    gaps = np.diff(sums)
    if gaps.min() < _SMALLEST_GAP:
        return None
    above = np.searchsorted(sums, means).clip(1, len(sums) - 1)
    nearest = np.where(sums[above] - means < means - sums[above - 1], above, above - 1)
    distances = np.abs(sums[nearest] - means)
    anywhere = np.sqrt(np.sum(gaps**3) / 12)
    return Decoded(
        trains=subsets[nearest].T.copy(),
        deviation=float(distances.max()),
        misfit=float(np.sqrt(np.mean(np.square(distances))) / anywhere),
    )
