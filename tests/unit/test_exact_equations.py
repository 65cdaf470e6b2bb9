"""The equations of a layer of LIF neurons tell frames apart that coarse rounding makes alike."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

pytest.importorskip("torch")

from attacker.exact.equations import obeying
from attacker.exact.order import KnownLayer, after_spikes
from fedcore.plan import NeuronSpec

N_STEPS, N_NEURONS, N_NEXT, N_FEATURES = 6, 96, 8, 200
N_SEEDS = 8
Reset = Literal["subtract", "zero"]


def layer(*, reset: Reset, seed: int) -> KnownLayer:
    rng = np.random.default_rng(seed)
    return KnownLayer(
        weight=0.03 * rng.normal(size=(N_NEURONS, N_FEATURES)),
        bias=np.zeros(N_NEURONS),
        following=rng.normal(size=(N_NEXT, N_NEURONS)),
        neuron=NeuronSpec(reset=reset, detach_reset=True),
    )


def gradient(frames: np.ndarray, known: KnownLayer, *, seed: int) -> np.ndarray:
    """By the recursion in time, then rounded to 8 bits."""
    membrane, met = np.zeros(N_NEURONS), []
    for frame in frames:
        charged = known.neuron.decay * membrane + known.weight @ frame + known.bias
        slope, stays, membrane = after_spikes(charged, known.neuron)
        met.append((slope, stays))
    sent_back = known.following.T @ np.random.default_rng(seed).normal(size=N_NEXT)
    later, slopes = np.zeros(N_NEURONS), np.zeros((N_NEURONS, N_FEATURES))
    for frame, (slope, stays) in zip(frames[::-1], met[::-1], strict=True):
        later = slope * sent_back + known.neuron.decay * stays * later
        slopes += np.outer(later, frame)
    step = np.abs(slopes).max() / 127
    return np.asarray(np.rint(slopes / step) * step)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("is_swapped", [False, True])
def test_wrong_spikes_and_swapped_steps_are_repaired(reset: Reset, is_swapped: bool) -> None:
    n_repaired = 0
    for seed in range(N_SEEDS):
        rng = np.random.default_rng(seed)
        known = layer(reset=reset, seed=seed)
        frames = (rng.random((N_STEPS, N_FEATURES)) < 0.3).astype(np.float64)
        slopes = gradient(frames, known, seed=seed)
        guess = frames[[1, 0, *range(2, N_STEPS)]] if is_swapped else frames.copy()
        guess[0, rng.choice(N_FEATURES, 10, replace=False)] = 1
        fit = obeying(guess, slopes, layer=known)
        left = np.linalg.norm(slopes - fit.atoms @ fit.frames) / np.linalg.norm(slopes)
        assert fit.residual == pytest.approx(left)
        n_repaired += np.array_equal(fit.frames, frames)
    assert n_repaired >= N_SEEDS // 2


def test_silent_frames_are_no_trouble() -> None:
    known = layer(reset="subtract", seed=0)
    frames = np.zeros((N_STEPS, N_FEATURES))
    frames[0, :50] = 1
    assert obeying(frames, gradient(frames, known, seed=0), layer=known).residual < 0.1
