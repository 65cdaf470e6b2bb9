"""Binary frames that fit a noisy gradient better than the ones that its subspace suggests.

Noise bends the subspace, so that its binary vectors are only a first guess. Given frames, the best
atoms are a linear fit; given atoms, the best binary column of each feature is found among all
words. The two alternate until nothing improves, in the space of all neurons and from several
starts, since each ends in a minimum of its own.
"""

from __future__ import annotations

import numpy as np

from attacker.exact.enumeration import independent
from attacker.exact.subspace import Subspace
from attacker.exact.words import nearest

__all__ = ["refined"]

_MAX_BITS = 16  # of a codebook
_MAX_BITS_OF_STARTS = 10
_N_STARTS = 100
_N_ROUNDS = 15
_N_OTHERS = 6
_COARSE = 1e-3  # share of the gradient that is left, from where on one start is not enough
_TRUST_IN_BIAS = 4.0  # weight of its gradient, in units of the heaviest column's


def refined(vectors: np.ndarray, space: Subspace) -> np.ndarray:
    """Improve the first `space.rank` vectors.

    Args:
        vectors: of the space, the most trusted first, [vector, column].
        space: that they lie in.

    Returns:
        The frames [vector, column], and behind them a few of the vectors that may be frames too,
        unless noise is so coarse that there is no telling.
    """
    n = space.rank
    if n > _MAX_BITS:
        return vectors[: n + _N_OTHERS]
    best, best_error = _alternated(vectors[:n], space)
    if best_error <= _COARSE or n > _MAX_BITS_OF_STARTS:
        return np.vstack([best, vectors[n : n + _N_OTHERS]])
    rng = np.random.default_rng(0)
    for _ in range(_N_STARTS):
        order = np.argsort(np.arange(len(vectors)) * rng.random(len(vectors)))
        chosen = independent(vectors[order], n=n)
        if len(chosen) < n:  # rounding can make vectors equal that were not
            continue
        frames, error = _alternated(vectors[order[chosen]], space)
        if error < best_error:
            best, best_error = frames, error
    return best


def _alternated(frames: np.ndarray, space: Subspace) -> tuple[np.ndarray, float]:
    """The best frames on the way, and the weighted share of the gradient that they leave."""
    target, weights = space.whole, np.sqrt(space.n_equal)
    ones = np.zeros((len(frames), 0))
    if space.bias is not None:  # all atoms together are the gradient in the bias
        target = np.column_stack([target, space.bias])
        weights = np.append(weights, _TRUST_IN_BIAS * weights.max())
        ones = np.ones((len(frames), 1))
    weighted = target * weights
    best, best_error = frames, np.inf
    for _ in range(_N_ROUNDS):
        full = np.column_stack([frames, ones]) * weights
        atoms = np.linalg.lstsq(full.T, weighted.T, rcond=None)[0].T
        error = float(np.linalg.norm(atoms @ full - weighted) / np.linalg.norm(weighted))
        if not error < best_error * (1 - 1e-9):
            break
        best, best_error = frames, error
        frames = nearest(atoms, space.whole)
    return best, best_error
