"""The features of each example of a batch, from the gradient in one linear layer.

    dL/dW = sum over examples n of r[n] x[n]^T        r[n]: gradient in n's logits, [class]
    dL/db = sum over examples n of r[n]               x[n]: n's features, [feature], not negative

Every column of dL/dW lies in the cone whose edges are the r[n]. The columns for which example n is
silent lie on the facet opposite to r[n], and the facet's normal q (q r[m] = 0 for all m but n)
gives away the example: x[n] = q dL/dW / q dL/db. Facets are sought as the planes through as many
random columns as span one: planes with all columns on one side of them, and the more columns on
them, the better. Dimitrov et al. 2024 ("SPEAR: Exact Gradient Inversion of Batches", arXiv
2403.03945) search in the same way for sparse gradients behind a ReLU layer, where features are
sparse here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Unmixed", "unmix"]

_N_BALANCING = 20
_N_WALKS = 500
_N_CORRECTIONS = 20_000
_ALONG = 1e-5
_ON_PLANE = 3e-6  # distance of a column of length 1; float32 rounds at 6e-8
_BEHIND_PLANE = 1e-5
_SAME_FEATURES = 0.999  # cosine of the angle to the space of those found before
_SPREAD = 1e-4  # smallest singular value, relative, of columns that span a plane


@dataclass(frozen=True, kw_only=True)
class Unmixed:
    """What one update says about each of its examples.

    Attributes:
        features: [example, feature], in the units of the layer's inputs.
        residuals: gradients in the logits, up to a positive factor, [example, class].
        negative_mass: share of the features' squares that lies below 0. Features are not
            negative, so a large one disproves the answer; a small one does not prove it.
        n_silent: of each example, features in which the search found it silent, [example]. An
            example for which this hardly exceeds the number of examples may be a chance plane.
    """

    features: np.ndarray
    residuals: np.ndarray
    negative_mass: float
    n_silent: np.ndarray


def unmix(
    weight: np.ndarray, bias: np.ndarray, *, n_examples: int, rng: np.random.Generator
) -> Unmixed | None:
    """Separate the examples of a batch.

    Args:
        weight: gradient in the layer's weight, [class, feature].
        bias: gradient in its bias, [class].
        n_examples: of the batch; at most one less than there are classes, for the residuals of
            cross-entropy sum to 0.
        rng: draws the columns.

    Returns:
        The examples in no particular order, or None where the gradient does not hold that many.
    """
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    rows = _row_scales(weight)
    columns = rows[:, None] * weight[:, weight.any(axis=0)]
    columns = columns / np.linalg.norm(columns, axis=0)
    if n_examples >= len(bias) or columns.shape[1] < n_examples:
        return None
    basis = np.linalg.svd(columns, full_matrices=False)[0][:, :n_examples]
    flat = basis.T @ columns  # [dimension, column]
    normals, n_silent = _best_facets(flat, n_facets=n_examples, rng=rng)
    if len(normals) < n_examples:
        return None
    residuals = (basis / rows[:, None] @ np.linalg.pinv(normals)).T
    normals = normals @ basis.T * rows  # [example, class]
    scales = normals @ bias
    if not np.all(np.abs(scales) > 0):
        return None
    features = (normals @ weight) / scales[:, None]
    squares = np.square(features)
    return Unmixed(
        features=features.astype(np.float32),
        residuals=residuals * scales[:, None],
        negative_mass=float(squares[features < 0].sum() / squares.sum()),
        n_silent=n_silent,
    )


def _row_scales(weight: np.ndarray) -> np.ndarray:
    """Factors [class] that make all rows weigh alike, once all columns do.

    An example that the model is sure of hides behind the others in most rows. Rounding is relative
    to each entry, so that scaling a row costs nothing.
    """
    scales = np.ones(len(weight))
    for _ in range(_N_BALANCING):
        columns = scales[:, None] * weight
        lengths = np.linalg.norm(columns, axis=0)
        columns = columns[:, lengths > 0] / lengths[lengths > 0]
        scales = scales / np.maximum(np.linalg.norm(columns, axis=1), 1e-300)
    return scales


def _best_facets(
    columns: np.ndarray, *, n_facets: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Independent facets of the columns' cone, the most populated ones: normals and populations.

    Args:
        columns: of length about 1, [dimension, column].
        n_facets: wanted.
        rng: draws columns.

    Returns:
        Normals [facet, dimension] of length 1, at most `n_facets`, and columns on each [facet].
    """
    candidates = _facets(columns, rng)
    kept: list[np.ndarray] = []
    n_on: list[int] = []
    while len(candidates) and len(kept) < n_facets:
        sides = candidates @ columns  # each example's features, up to a factor per feature
        populations = (np.abs(sides) < _ON_PLANE).sum(1)
        best = int(populations.argmax())
        normal = _plane_of_columns_on(candidates[best], columns)
        if normal is None:
            candidates = np.delete(candidates, best, axis=0)
            continue
        kept.append(normal)
        n_on.append(int(populations[best]))
        found = np.linalg.qr((kept @ columns).T)[0]
        shares = np.linalg.norm(sides @ found, axis=1) / np.linalg.norm(sides, axis=1)
        candidates = candidates[shares < _SAME_FEATURES]
    return np.reshape(kept, (-1, len(columns))), np.array(n_on, dtype=np.int64)


def _facets(columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normals of facets of the columns' cone, [facet, dimension].

    Each walk begins at a normal with all columns in front of its plane. It goes a random way
    until the plane meets a column, and then such ways only as keep the columns met so far on it.
    """
    n_dimensions = len(columns)
    inside = _in_front(columns)
    if inside is None:
        return np.empty((0, n_dimensions))
    normals = np.repeat(inside[None], _N_WALKS, axis=0)
    met = np.empty((_N_WALKS, 0, n_dimensions))
    for _ in range(n_dimensions - 1):
        ways = rng.normal(size=normals.shape)
        for column in met.transpose(1, 0, 2):  # orthonormal
            ways -= (ways * column).sum(1, keepdims=True) * column
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        nearing = -(ways @ columns)
        heights = (normals @ columns).clip(min=0)
        backward = ~(nearing > _ALONG).any(1)
        nearing[backward] *= -1
        ways[backward] *= -1
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.where(nearing > _ALONG, heights / nearing, np.inf)
        first = steps.argmin(1)
        length = np.take_along_axis(steps, first[:, None], axis=1)
        normals = normals + np.where(np.isfinite(length), length, 0) * ways
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        new = columns.T[first]
        for _ in range(2):  # twice is enough
            for column in met.transpose(1, 0, 2):
                new = new - (new * column).sum(1, keepdims=True) * column
            new /= np.linalg.norm(new, axis=1, keepdims=True)
        met = np.concatenate([met, new[:, None]], axis=1)
    sides = normals @ columns
    chosen: np.ndarray = normals[sides.min(1) > -_BEHIND_PLANE]
    return chosen


def _in_front(columns: np.ndarray) -> np.ndarray | None:
    """A normal with all columns strictly in front of its plane (Rosenblatt's perceptron)."""
    normal = columns.mean(1)
    for _ in range(_N_CORRECTIONS):
        sides = normal @ columns
        worst = sides.argmin()
        if sides[worst] > _ALONG * np.linalg.norm(normal):
            unit: np.ndarray = normal / np.linalg.norm(normal)
            return unit
        normal = normal + columns[:, worst]
    return None


def _plane_of_columns_on(normal: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
    """The normal fitted to the columns that lie on this plane; None where they span less."""
    on_plane = columns[:, np.abs(normal @ columns) < _ON_PLANE]
    if on_plane.shape[1] < len(columns):
        return None
    axes, spread, _ = np.linalg.svd(on_plane, full_matrices=False)
    if spread[-2] < _SPREAD * spread[0]:
        return None
    better: np.ndarray = axes[:, -1] * np.sign(axes[:, -1] @ normal)
    return better
