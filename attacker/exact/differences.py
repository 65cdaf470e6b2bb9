"""Frames from differences of columns.

Two features that differ in one frame alone have columns that differ by that frame's atom, and so
do a feature with a single spike and one with none. The most frequent differences are therefore
taken for atoms. Where some of them are sums or differences of atoms, the frames come out as
integers that are not binary, and adding and subtracting rows of them makes them so. The bias,
where there is one, tells a frame from the sum of two with no feature in common: it is a feature
that is always 1.
"""

from __future__ import annotations

import numpy as np

from attacker.exact.subspace import Subspace

__all__ = ["by_differences"]

_MAX_COLUMNS = 600  # the number of pairs grows with the square
_N_TRIED = 4000  # most frequent differences
_N_PROBES = 3  # random directions in which equal differences are recognised
_INDEPENDENT = 1e-4
_MAX_MOVES = 300


def by_differences(space: Subspace) -> np.ndarray:
    """Frames that span the space, [frame, column]; none where too few differences recur.

    They are binary where the method worked; the caller checks the fit.
    """
    atoms = _basis(_frequent_differences(space), n=space.rank)
    if atoms.shape[1] < space.rank:
        return np.zeros((0, space.columns.shape[1]))
    columns, weights = space.columns, np.sqrt(space.n_equal)
    if space.always_on is None:
        rows = np.rint(np.linalg.solve(atoms, columns))
        return _tamed(rows, low=np.zeros(len(weights)), weights=weights)
    columns = np.column_stack([space.always_on, columns])
    low = np.append(1.0, np.zeros(len(weights)))  # every frame is 1 there
    rows = np.rint(np.linalg.solve(atoms, columns))
    return _tamed(rows, low=low, weights=np.append(weights.max(), weights))[:, 1:]


def _frequent_differences(space: Subspace) -> np.ndarray:
    """Differences of two columns, up to their sign, the most frequent first, [rank, difference]."""
    common = np.argsort(-space.n_equal, kind="stable")[:_MAX_COLUMNS]
    corners = [np.zeros(space.rank)]
    if space.always_on is not None:
        corners.append(space.always_on)
    columns = np.column_stack([*corners, space.columns[:, common]])
    weights = np.append(np.full(len(corners), space.n_equal.max()), space.n_equal[common])
    one, other = np.triu_indices(columns.shape[1], 1)
    probes = np.random.default_rng(0).normal(size=(_N_PROBES, space.rank))
    seen = probes @ columns / np.linalg.norm(probes, axis=1, keepdims=True)
    differences = seen[:, one] - seen[:, other]
    signs = np.where(differences[0] < 0, -1, 1)
    step = 10 * space.noise + 1e-12 * np.abs(seen).max()
    keys = np.rint(signs * differences / step).astype(np.int64)
    _, first, which = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    weight = np.bincount(which.ravel(), weights=np.minimum(weights[one], weights[other]))
    best = first[np.argsort(-weight, kind="stable")[:_N_TRIED]]
    return np.asarray(signs[best] * (columns[:, one[best]] - columns[:, other[best]]))


def _basis(vectors: np.ndarray, *, n: int) -> np.ndarray:
    """The first n columns that are linearly independent, or as many as there are."""
    basis, chosen = np.zeros((0, len(vectors))), []
    for i, vector in enumerate(vectors.T):
        rest = vector - basis.T @ (basis @ vector)
        rest -= basis.T @ (basis @ rest)
        if np.linalg.norm(rest) > _INDEPENDENT * np.linalg.norm(vector):
            basis = np.vstack([basis, rest / np.linalg.norm(rest)])
            chosen.append(i)
            if len(chosen) == n:
                break
    return vectors[:, chosen]


def _tamed(rows: np.ndarray, *, low: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Binary rows, from changing signs of rows and adding rows to others as long as that helps.

    Args:
        rows: integers [row, column].
        low: smallest value of a column, 0, or 1 where it must be 1.
        weights: of columns.
    """
    turned = _excess(-rows, low, weights) < _excess(rows, low, weights)
    rows = np.where(turned[:, None], -rows, rows)
    for _ in range(_MAX_MOVES):
        excess = _excess(rows, low, weights)
        best_gain, best = 0.0, None
        for i in np.flatnonzero(excess):
            for candidates in (rows[i] + rows, rows[i] - rows, rows - rows[i], -rows - rows[i]):
                after = _excess(candidates, low, weights)
                after[i] = np.inf
                if excess[i] - after.min() > best_gain:
                    best_gain = excess[i] - after.min()
                    best = (i, candidates[after.argmin()])
        if best is None:
            break
        rows[best[0]] = best[1]
    return np.asarray(np.abs(rows.clip(0, 1)))


def _excess(rows: np.ndarray, low: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted squared distance of each row from the interval [low, 1]."""
    outside = np.maximum(rows - 1, 0) + np.maximum(low - rows, 0)
    return np.asarray((outside**2) @ weights)
