"""Every binary vector of a space of few dimensions.

A vector of the space is known by its values at as many pivot features as there are dimensions. All
2^rank choices of those are tried, and those whose other values come out binary are kept: the work
doubles with every frame, and chance hits are rare where there are many more distinct features.
"""

from __future__ import annotations

import numpy as np

from attacker.exact.subspace import Subspace

__all__ = ["by_enumeration", "codebook", "independent"]

_N_LOW = 14  # bits that are tried at once
_BLOCKS = (6, 18, 54)  # columns after which bad candidates are dropped
_N_KEPT = 4096
_FLOOR = 1e-4  # squared error per column that is always allowed, for rounding
_N_OTHERS = 50
_AS_GOOD = 4.0  # squared error of a vector that fits as well, in units of the worst one chosen
_UNLIMITED = 16  # up to so many bits nothing needs to be dropped for its error alone
_LIMIT = 100.0  # squared error that is allowed in units of what noise makes of a true vector


def codebook(n_bits: int) -> np.ndarray:
    """All binary words, float32 [word, bit]."""
    return ((np.arange(2**n_bits)[:, None] >> np.arange(n_bits)) & 1).astype(np.float32)


def by_enumeration(space: Subspace) -> np.ndarray:
    """Binary vectors of the space, [vector, column].

    First those that span it, the best fit at each choice, as far as there are `space.rank`
    independent ones; behind them a few others that fit as well, any of which may be a frame too.
    """
    pivots = _pivots(space.columns)
    to_words = np.linalg.inv(space.columns[:, pivots])
    values = (to_words @ space.columns).astype(np.float32)
    weights = np.sqrt(space.n_equal)
    if space.always_on is not None:  # one more column, where every frame is 1
        ones = to_words @ space.always_on
        values, weights = np.column_stack([ones, values]), np.append(weights.max(), weights)
    spread = float(space.noise**2 * (to_words**2).sum())
    words, errors = _search(
        values.astype(np.float32),
        weights=(weights / weights.mean()).astype(np.float32),
        is_one=space.always_on is not None,
        limit=np.inf if space.rank <= _UNLIMITED else _FLOOR + _LIMIT * spread,
    )
    chosen = independent(words, n=space.rank)
    if not chosen:
        return np.zeros((0, space.columns.shape[1]))
    as_good = np.flatnonzero(errors <= _AS_GOOD * errors[chosen].max() + _FLOOR)
    others = [int(i) for i in as_good if i not in chosen][:_N_OTHERS]
    values = words[chosen + others].astype(np.float64) @ to_words @ space.columns
    return np.asarray(np.abs(np.rint(values)).clip(0, 1))


def _search(
    values: np.ndarray, *, weights: np.ndarray, is_one: bool, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Words [word, bit] whose combinations of `values` [bit, column] are closest to binary.

    Also their errors, ascending, [word].
    """
    telling = np.abs(values).sum(axis=0) * weights
    if is_one:
        telling[0] = np.inf  # keeps its place at the front
    order = np.argsort(-telling, kind="stable")
    values, weights = values[:, order], weights[order]
    n_low = min(len(values), _N_LOW)
    low, high = codebook(n_low), codebook(len(values) - n_low)
    of_low = low @ values[:n_low]
    kept, errors = np.zeros((0, len(values)), np.float32), np.zeros(0, np.float32)
    for word in high:
        offset = word @ values[n_low:]
        rows, found = _closest(of_low, offset, weights=weights, is_one=is_one, limit=limit)
        words = np.column_stack([low[rows], np.broadcast_to(word, (len(rows), len(word)))])
        kept, errors = np.vstack([kept, words]), np.append(errors, found)
        if len(kept) > _N_KEPT:
            best = np.argsort(errors, kind="stable")[:_N_KEPT]
            kept, errors = kept[best], errors[best]
    best = np.argsort(errors, kind="stable")
    best = best[kept[best].any(axis=1)]
    return kept[best], errors[best]


def _closest(
    of_low: np.ndarray, offset: np.ndarray, *, weights: np.ndarray, is_one: bool, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that may be binary once `offset` [column] is added, and their errors."""
    rows, errors, start = np.arange(len(of_low)), np.zeros(len(of_low), np.float32), 0
    for end in (*_BLOCKS, of_low.shape[1]):
        block = of_low[rows, start:end] + offset[start:end]
        distance = np.minimum(np.abs(block), np.abs(block - 1))
        if is_one and start == 0:
            distance[:, 0] = np.abs(block[:, 0] - 1)
        errors = errors + (distance**2) @ weights[start:end]
        fits = errors <= limit * max(1.0, float(weights[:end].sum()))
        if np.count_nonzero(fits) > _N_KEPT:
            n_kept = max(_N_KEPT, len(errors) // 2)
            fits &= errors <= np.partition(errors, n_kept - 1)[n_kept - 1]
        rows, errors, start = rows[fits], errors[fits], min(end, of_low.shape[1])
    return rows, errors


def independent(vectors: np.ndarray, *, n: int) -> list[int]:
    """The first n rows that are linearly independent, or as many as there are."""
    basis, chosen = np.zeros((0, vectors.shape[1])), list[int]()
    for i, vector in enumerate(vectors.astype(np.float64)):
        rest = vector - basis.T @ (basis @ vector)
        rest -= basis.T @ (basis @ rest)
        if np.linalg.norm(rest) > 1e-6 * np.linalg.norm(vector):
            basis = np.vstack([basis, rest / np.linalg.norm(rest)])
            chosen.append(i)
            if len(chosen) == n:
                break
    return chosen


def _pivots(columns: np.ndarray) -> list[int]:
    """As many columns as there are rows, each the farthest from the span of those before."""
    rest, pivots = columns.copy(), []
    for _ in range(len(columns)):
        pivots.append(int((rest**2).sum(axis=0).argmax()))
        direction = rest[:, pivots[-1]] / np.linalg.norm(rest[:, pivots[-1]])
        rest -= np.outer(direction, direction @ rest)
    return pivots
