"""Epsilon of a run: known values, laws, and what nothing is claimed for."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedcore.plan import Choice
from fedcore.types import Missing
from testbed.privacy import Guarantee, gaussian_epsilon, guarantee, sampled_epsilon

DP_SGD = Choice(name="dp-sgd", options={"max_norm": 0.5, "noise_multiplier": 4.0, "batch_size": 8})
CLIP = Choice(name="clip", options={"max_norm": 0.5})
NOISE = Choice(name="gaussian", options={"noise_multiplier": 8.0, "max_norm": 0.5})
TOP = Choice(name="topk")


def test_the_analytic_gaussian_mechanism() -> None:
    """Balle and Wang 2018 (arXiv 1805.06530): epsilon 1 and delta 1e-5 need sigma 3.73."""
    assert gaussian_epsilon(3.7306, n_rounds=1, delta=1e-5) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("noise_multiplier", [0.3, 0.5, 4.0])
def test_epsilon_gives_its_delta_back(noise_multiplier: float) -> None:
    """Oracle: the privacy loss is N(mu^2 / 2, mu^2); delta is E[(1 - exp(epsilon - loss))+]."""
    epsilon, mu = gaussian_epsilon(noise_multiplier, n_rounds=3, delta=1e-5), 3**0.5
    mu /= noise_multiplier
    n, width = 200_000, 12 * mu
    total = 0.0
    for k in range(n):
        loss = mu**2 / 2 + width * (2 * (k + 0.5) / n - 1)
        if loss > epsilon:
            density = math.exp(-(((loss - mu**2 / 2) / mu) ** 2) / 2) / (
                mu * math.sqrt(2 * math.pi)
            )
            total += -math.expm1(epsilon - loss) * density * 2 * width / n
    assert total == pytest.approx(1e-5, rel=1e-2)


def test_rounds_cost_and_noise_pays() -> None:
    one, ten = (gaussian_epsilon(2.0, n_rounds=n, delta=1e-5) for n in (1, 10))
    assert one < ten < 10 * one
    assert gaussian_epsilon(2.0 * math.sqrt(10), n_rounds=10, delta=1e-5) == pytest.approx(one)
    assert gaussian_epsilon(1e9, n_rounds=1, delta=1e-5) == 0


def test_what_comes_behind_the_noise_takes_nothing_off() -> None:
    alone = guarantee([DP_SGD], n_rounds=5)
    assert alone == Guarantee(epsilon=gaussian_epsilon(4.0, n_rounds=5, delta=1e-5), of="example")
    assert guarantee([DP_SGD, TOP], n_rounds=5) == alone
    clipped = guarantee([CLIP, NOISE], n_rounds=5)
    assert clipped == Guarantee(epsilon=gaussian_epsilon(4.0, n_rounds=5, delta=1e-5), of="client")


@pytest.mark.parametrize("steps", [[], [TOP, DP_SGD], [NOISE], [NOISE, CLIP], [CLIP, TOP, NOISE]])
def test_nothing_is_claimed_otherwise(steps: list[Choice]) -> None:
    assert isinstance(guarantee(steps, n_rounds=5), Missing)


def test_noise_of_nothing_guarantees_nothing() -> None:
    options: dict[str, Any] = {**DP_SGD.options, "noise_multiplier": 0.0}
    assert isinstance(guarantee([Choice(name="dp-sgd", options=options)], n_rounds=1), Missing)


def test_sampling_is_accounted_by_a_library_or_said_to_be_missing() -> None:
    found = sampled_epsilon(1.1, sampling_rate=0.01, n_rounds=1000, delta=1e-5)
    if isinstance(found, Missing):
        assert "leakwatt[privacy]" in found.why
    else:
        assert 1.5 < found < gaussian_epsilon(1.1, n_rounds=1000, delta=1e-5)
