"""The few directions in which the frames of a batch move a layer's gradient.

A fully connected layer that receives the frames X [frame, feature] has the gradient D X, where
column t of D is the loss's slope in the currents of frame t. Its rank is at most the number of
frames, so that all columns lie in a space of as many dimensions, and the noise that a codec spread
over all neurons mostly lies outside of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Subspace", "largest_error", "n_frames_above", "noise_std", "project"]

_F32 = 2.0**-24
_ROUNDING = {"f16": 2.0**-11, "bf16": 2.0**-8}
_HALF_SUBNORMAL = 2.0**-25
_INT8_LEVELS = 127
_ACCUMULATED = 4.0  # a gradient in float32 is a sum; its rounding is a few times that of one value
_EQUAL_WITHIN = 2.5  # standard deviations of a column


@dataclass(frozen=True, kw_only=True)
class Subspace:
    """Columns of a gradient in their own few coordinates.

    Attributes:
        columns: distinct ones, [rank, column].
        n_equal: how many features have each of them, [column].
        which: the column of each active feature, [feature].
        active: features whose gradient is not zero, indices [feature].
        whole: the distinct columns in all neurons, [neuron, column].
        bias: the gradient in the bias, [neuron]; None for a layer without.
        always_on: the same in this space, which is the column of a feature that is always 1,
            [rank].
        noise: standard deviation of one coordinate of one feature.
    """

    columns: np.ndarray
    n_equal: np.ndarray
    which: np.ndarray
    active: np.ndarray
    whole: np.ndarray
    bias: np.ndarray | None
    always_on: np.ndarray | None
    noise: float

    @property
    def rank(self) -> int:
        """Number of coordinates."""
        return len(self.columns)


def largest_error(slopes: np.ndarray, *, codec: str) -> np.ndarray:
    """The most that rounding, on the wire and in the client, does to each entry."""
    if codec == "int8":
        return np.full(slopes.shape, np.abs(slopes).max() / (2 * _INT8_LEVELS))
    relative = _ROUNDING.get(codec, 0.0) + _ACCUMULATED * _F32
    return np.asarray(relative * np.abs(slopes) + (_HALF_SUBNORMAL if codec == "f16" else 0.0))


def noise_std(slopes: np.ndarray, *, codec: str) -> float:
    """Root mean square of what rounding does to one entry.

    Rounding is uniform within its step: the standard deviation is the largest error / sqrt(3).
    """
    return float(np.sqrt(np.mean(largest_error(slopes, codec=codec) ** 2) / 3))


def n_frames_above(singular: np.ndarray, *, shape: tuple[int, ...], noise: float) -> int:
    """How many singular values stand out of noise of that strength in a matrix of that shape.

    The largest one of noise alone is close to noise * (sqrt(rows) + sqrt(columns)).
    """
    floor = 2 * noise * sum(np.sqrt(n) for n in shape)
    return int(np.count_nonzero(singular > floor))


def project(
    slopes: np.ndarray, bias_slopes: np.ndarray | None, *, rank: int, noise: float
) -> Subspace:
    """Coordinates of all columns, equal ones once.

    Args:
        slopes: of the loss in the layer's weight, float64 [neuron, feature].
        bias_slopes: in its bias, [neuron].
        rank: coordinates to keep.
        noise: standard deviation of one entry.
    """
    active = np.flatnonzero(np.abs(slopes).max(axis=0) > 0)
    left, singular, right = np.linalg.svd(slopes[:, active], full_matrices=False)
    coordinates = singular[:rank, None] * right[:rank]
    which = _number_equal(coordinates, within=_EQUAL_WITHIN * noise * np.sqrt(rank))
    n_equal = np.bincount(which)
    return Subspace(
        columns=_sums(coordinates, which) / n_equal,
        n_equal=n_equal,
        which=which,
        active=active,
        whole=_sums(slopes[:, active], which) / n_equal,
        bias=bias_slopes,
        always_on=None if bias_slopes is None else left[:, :rank].T @ bias_slopes,
        noise=noise,
    )


def _sums(columns: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Sums of the columns of each kind, [row, kind]."""
    return np.stack([np.bincount(which, weights=row) for row in columns])


def _number_equal(columns: np.ndarray, *, within: float) -> np.ndarray:
    """Columns closer than `within` to the first of a kind share its number, [column]."""
    which = np.full(columns.shape[1], -1)
    left, number = np.arange(columns.shape[1]), 0
    while len(left):
        distance = np.linalg.norm(columns[:, left] - columns[:, left[:1]], axis=0)
        which[left[distance <= within]] = number
        left, number = left[distance > within], number + 1
    return which
