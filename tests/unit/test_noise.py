"""The system's noise is normal, independent, and never the same twice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedcore.defences.noise import SystemNoise

N = 100_000


def test_it_follows_the_normal_law() -> None:
    """Kolmogorov-Smirnov against erf; a true sampler fails once in 10^8 runs.

    P(sup |F_n - F| > d) <= 2 exp(-2 n d^2), Massart 1990.
    """
    drawn = np.sort(SystemNoise().standard_normal((N,)))
    law = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in drawn])
    distance = max(
        np.max(np.arange(1, N + 1) / N - law),
        np.max(law - np.arange(N) / N),
    )
    assert distance < math.sqrt(math.log(2 / 1e-8) / (2 * N))


def test_both_halves_of_a_pair_are_uncorrelated() -> None:
    drawn = SystemNoise().standard_normal((N,))
    first, second = drawn[: N // 2], drawn[N // 2 :]
    limit = 6 / math.sqrt(N // 2)
    assert abs(np.mean(first * second)) < limit
    assert abs(np.mean(first**2 * second**2) - 1) < 3 * limit  # Var(x^2 y^2) = 8


def test_no_two_calls_agree() -> None:
    noise = SystemNoise()
    values = np.concatenate([noise.standard_normal((1000,)) for _ in range(3)])
    assert len(np.unique(values)) == values.size


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 3, 5)])
def test_the_shape_is_as_asked(shape: tuple[int, ...]) -> None:
    drawn = SystemNoise().standard_normal(shape)
    assert drawn.shape == shape
    assert drawn.dtype == np.float64
    assert np.isfinite(drawn).all()
