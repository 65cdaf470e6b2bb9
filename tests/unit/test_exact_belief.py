"""Frames that coarse rounding hides come back where they foretell their own slopes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from attacker.exact.belief import Evidence, likeliest
from attacker.exact.equations import Obeying
from attacker.exact.order import KnownLayer, after_spikes
from fedcore.plan import NeuronSpec

N_STEPS, N_NEURONS, N_CLASSES, N_FEATURES = 12, 192, 8, 120
N_SEEDS = 4
SHARE_WRONG = 0.03


def evidence(frames: np.ndarray, *, seed: int) -> Evidence:
    """The gradient by the recursion in time, rounded to 8 bits."""
    rng = np.random.default_rng(seed)
    layer = KnownLayer(
        weight=0.06 * rng.normal(size=(N_NEURONS, N_FEATURES)),
        bias=0.1 * rng.normal(size=N_NEURONS),
        following=rng.normal(size=(N_CLASSES, N_NEURONS)),
        neuron=NeuronSpec(),
    )
    counts, sent_back = np.linspace(1, 0.1, N_STEPS), rng.normal(size=N_CLASSES)
    membrane, surrogate = np.zeros(N_NEURONS), []
    for frame in frames:
        charged = layer.neuron.decay * membrane + layer.weight @ frame + layer.bias
        slope, _, membrane = after_spikes(charged, layer.neuron)
        surrogate.append(slope)
    later, slopes = np.zeros(N_NEURONS), np.zeros((N_NEURONS, N_FEATURES))
    for t in reversed(range(N_STEPS)):
        later = counts[t] * surrogate[t] * (sent_back @ layer.following) + 0.9 * later
        slopes += np.outer(later, frames[t])
    step = np.abs(slopes).max() / 127
    return Evidence(
        slopes=np.rint(slopes / step) * step,
        error=np.full(slopes.shape, step / 2),
        layer=layer,
        counts=counts,
        sent_back=sent_back + 0.003 * rng.normal(size=N_CLASSES),
    )


def drawn(seed: int) -> np.ndarray:
    rng = np.random.default_rng(100 + seed)
    rates = rng.random(N_FEATURES) ** 2
    return (rng.random((N_STEPS, N_FEATURES)) < rates).astype(np.float64)


def spoilt(frames: np.ndarray, *, seed: int) -> np.ndarray:
    """With some of the spikes wrong."""
    wrong = np.random.default_rng(200 + seed).random(frames.shape) < SHARE_WRONG
    return np.asarray(np.abs(frames - wrong))


def test_spoilt_frames_are_repaired_and_told_to_be_right() -> None:
    n_repaired = 0
    for seed in range(N_SEEDS):
        frames = drawn(seed)
        known = evidence(frames, seed=seed)
        fit = likeliest(spoilt(frames, seed=seed), known)
        assert known.explained_by(fit) == np.array_equal(fit.frames, frames)
        left = np.linalg.norm(known.slopes - fit.atoms @ fit.frames)
        assert fit.residual == pytest.approx(left / np.linalg.norm(known.slopes))
        n_repaired += np.array_equal(fit.frames, frames)
    assert n_repaired >= N_SEEDS // 2


def test_one_wrong_spike_is_not_explained() -> None:
    frames = drawn(0)
    known = evidence(frames, seed=0)
    fit = likeliest(frames, known)
    assert known.explained_by(fit)
    wrong = fit.frames.copy()
    wrong[N_STEPS // 2, int(wrong.any(axis=0).argmax())] += 1
    assert not known.explained_by(Obeying(frames=wrong % 2, atoms=fit.atoms, residual=fit.residual))
