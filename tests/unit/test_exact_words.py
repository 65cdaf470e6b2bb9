"""Words by halves are the words that trying all of them finds."""

from __future__ import annotations

import numpy as np
import pytest

from attacker.exact.enumeration import codebook
from attacker.exact.words import believed, nearest

N_COLUMNS = 30


@pytest.mark.parametrize("n_bits", [1, 2, 5, 9])
def test_by_halves_as_by_trying_all(n_bits: int) -> None:
    rng = np.random.default_rng(n_bits)
    atoms = rng.normal(size=(12, n_bits))
    columns = rng.normal(size=(12, N_COLUMNS))
    words = codebook(n_bits).astype(np.float64)
    distance = np.linalg.norm(columns[:, :, None] - (atoms @ words.T)[:, None], axis=0)
    np.testing.assert_array_equal(nearest(atoms, columns), words[distance.argmin(axis=1)].T)
    weights = np.exp(-(distance**2) / 2)
    chances = (weights @ words).T / weights.sum(axis=1)
    belief = believed(atoms.T @ atoms, atoms.T @ columns)
    np.testing.assert_array_equal(belief.words, nearest(atoms, columns))
    np.testing.assert_allclose(belief.chances, chances, atol=1e-4)
