"""Binary words behind columns, told from all words of 16 bits and more by two halves.

That a column is A w for a word w and Gaussian noise has the log-likelihood w.p - w.G w / 2 with
p = A^T column and G = A^T A, up to a constant. It splits into a term of the low half of the bits,
one of the high half, and one of both that is the same for all columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attacker.exact.enumeration import codebook

__all__ = ["Belief", "believed", "nearest"]

_TABLE_SIZE = 1 << 16  # words of all columns that are held at once


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What columns say of their words.

    Attributes:
        chances: of each bit to be 1, [bit, column].
        words: the likeliest ones, [bit, column].
    """

    chances: np.ndarray
    words: np.ndarray


def nearest(atoms: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The words whose combinations of atoms are closest to the columns, [bit, column].

    Args:
        atoms: [row, bit].
        columns: [row, column].
    """
    low, high = _halves(atoms.shape[1])
    parts = _scores(atoms.T @ atoms, atoms.T @ columns)
    return np.asarray(np.vstack([_best(scores, low, high) for scores in parts]).T)


def believed(overlap: np.ndarray, projected: np.ndarray) -> Belief:
    """By Bayes' rule, where a word's log-likelihood is w.projected - w.overlap w / 2.

    Args:
        overlap: of atoms in units of the noise's variance, [bit, bit].
        projected: columns on atoms in the same units, plus prior log-odds, [bit, column].
    """
    low, high = _halves(len(overlap))
    chances, words = [], []
    for scores in _scores(overlap, projected):
        words.append(_best(scores, low, high))
        weights = np.exp(scores - scores.max(axis=(1, 2), keepdims=True))
        ones = np.hstack([weights.sum(axis=2) @ low, weights.sum(axis=1) @ high])
        chances.append(ones / weights.sum(axis=(1, 2))[:, None])
    return Belief(chances=np.vstack(chances).T, words=np.vstack(words).T)


def _halves(n_bits: int) -> tuple[np.ndarray, np.ndarray]:
    return codebook(n_bits // 2), codebook(n_bits - n_bits // 2)


def _scores(overlap: np.ndarray, projected: np.ndarray) -> Iterator[np.ndarray]:
    """Log-likelihoods of all words, float32 [column, low half, high half], some columns a time."""
    low, high = _halves(len(overlap))
    n_low = low.shape[1]
    of_both = low @ overlap[:n_low, n_low:] @ high.T
    of_low = ((low @ overlap[:n_low, :n_low]) * low).sum(axis=1) / 2
    of_high = ((high @ overlap[n_low:, n_low:]) * high).sum(axis=1) / 2
    shared = -(of_both + of_low[:, None] + of_high).astype(np.float32)
    lows = (projected[:n_low].T @ low.T).astype(np.float32)
    highs = (projected[n_low:].T @ high.T).astype(np.float32)
    n_columns = max(1, _TABLE_SIZE // shared.size)
    for start in range(0, len(lows), n_columns):
        some = slice(start, start + n_columns)
        yield shared + lows[some, :, None] + highs[some, None, :]


def _best(scores: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The words with the highest scores, [column, bit]."""
    i, j = np.divmod(scores.reshape(len(scores), -1).argmax(axis=1), len(high))
    return np.hstack([low[i], high[j]]).astype(np.float64)
