"""The features of each example of a batch, from the gradient in one linear layer.

    dL/dW = sum over examples n of r[n] x[n]^T        r[n]: gradient in n's logits, [class]
    dL/db = sum over examples n of r[n]               x[n]: n's features, [feature], not negative

Every column of dL/dW lies in the cone whose edges are the r[n]. The columns for which example n is
silent lie on the facet opposite to r[n], and the facet's normal q (q r[m] = 0 for all m but n)
gives away the example: x[n] = q dL/dW / q dL/db. Facets are sought by random walks among the planes
that have all columns on one side; the more columns on a facet, the better. Dimitrov et al. 2024
("SPEAR: Exact Gradient Inversion of Batches in Federated Learning", arXiv 2403.03945) use that the
gradients behind a ReLU layer are sparse; here it is the features that are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Unmixed", "unmix"]

_N_BALANCING = 20  # rounds of scaling columns and rows
_N_WALKS = 500
_N_CORRECTIONS = 20_000  # of the perceptron
_ALONG = 1e-5  # cosine between a plane and a direction that count as parallel
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
        rng: leads the walks.

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
        rng: leads the walks.

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
    met = np.empty((0, _N_WALKS, n_dimensions))  # orthonormal in each walk
    for _ in range(n_dimensions - 1):
        ways = _across(rng.normal(size=normals.shape), met)
        normals, first = _walk(normals, ways, columns)
        met = np.concatenate([met, _across(columns.T[first], met)[None]])
    chosen: np.ndarray = normals[(normals @ columns).min(1) > -_BEHIND_PLANE]
    return chosen


def _walk(
    normals: np.ndarray, ways: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn each normal until its plane meets a column: the new normals, and the columns' numbers.

    Where nothing lies ahead it goes backward.
    """
    nearing = -(ways @ columns)
    direction = np.where((nearing > _ALONG).any(1, keepdims=True), 1.0, -1.0)
    nearing = direction * nearing
    heights = (normals @ columns).clip(min=0)
    is_ahead = nearing > _ALONG
    steps = np.where(is_ahead, heights / np.where(is_ahead, nearing, 1.0), np.inf)
    first = steps.argmin(1)
    length = np.take_along_axis(steps, first[:, None], axis=1)
    normals = normals + np.where(np.isfinite(length), length, 0.0) * direction * ways
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.maximum(lengths, 1e-300), first


def _across(vectors: np.ndarray, met: np.ndarray) -> np.ndarray:
    """What of these is orthogonal to those met before, at length 1, [walk, dimension]."""
    for _ in range(2):  # the second time takes off what rounding left
        for direction in met:
            vectors = vectors - (vectors * direction).sum(1, keepdims=True) * direction
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(lengths, 1e-300)  # nothing may be left
    return vectors


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
