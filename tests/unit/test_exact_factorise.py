"""Binary frames are found behind a product with real slopes, and only where they are."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from attacker.exact.enumeration import codebook
from attacker.exact.factorise import Factorisation, factorise
from attacker.exact.subspace import n_frames_above, noise_std

N_NEURONS, N_FEATURES = 64, 400


def gradient(
    n_frames: int, *, density: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, and the slopes in weight and bias that they cause."""
    rng = np.random.default_rng(seed)
    frames = (rng.random((n_frames, N_FEATURES)) < density).astype(np.float64)
    atoms = rng.normal(size=(N_NEURONS, n_frames))
    return frames, (atoms @ frames).astype(np.float32), atoms.sum(axis=1).astype(np.float32)


def found(
    slopes: np.ndarray, bias_slopes: np.ndarray | None, *, n_frames: int, codec: str = "f32"
) -> Factorisation:
    answer = factorise(slopes, bias_slopes, n_frames=n_frames, codec=codec, enumerate_up_to=12)
    assert answer is not None
    return answer


def as_set(frames: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(frame) for frame in frames.astype(int).tolist()}


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dense_frames_are_enumerated(density: float, has_bias: bool) -> None:
    frames, slopes, bias_slopes = gradient(7, density=density)
    answer = found(slopes, bias_slopes if has_bias else None, n_frames=7)
    assert as_set(answer.frames) == as_set(frames)
    assert answer.fits
    np.testing.assert_allclose(answer.atoms @ answer.frames, slopes, atol=1e-5)


def test_many_sparse_frames_come_from_differences() -> None:
    frames, slopes, bias_slopes = gradient(30, density=0.03)
    answer = found(slopes, bias_slopes, n_frames=30)
    assert answer.method == "differences"
    assert as_set(answer.frames) == as_set(frames)


def test_frames_without_a_spike_leave_no_trace() -> None:
    frames, slopes, bias_slopes = gradient(6, density=0.4)
    answer = found(slopes, None, n_frames=9)
    assert answer.rank == 6
    assert as_set(answer.frames) == as_set(frames)
    del bias_slopes  # it holds the silent frames, too


def test_half_precision_does_not_hide_them() -> None:
    frames, slopes, bias_slopes = gradient(8, density=0.4)
    answer = found(slopes.astype(np.float16), bias_slopes, n_frames=8, codec="f16")
    assert as_set(answer.frames) == as_set(frames)


def test_steps_of_eight_bits_are_refined_away() -> None:
    frames, slopes, bias_slopes = gradient(6, density=0.4)
    step = np.abs(slopes).max() / 127
    coarse = np.rint(slopes / step) * step
    answer = found(coarse, bias_slopes, n_frames=6, codec="int8")
    assert as_set(answer.frames) == as_set(frames)


def test_real_inputs_do_not_pass_for_binary_ones() -> None:
    rng = np.random.default_rng(1)
    slopes = rng.normal(size=(N_NEURONS, 5)) @ rng.random((5, N_FEATURES))
    answer = factorise(slopes, None, n_frames=5, codec="f32", enumerate_up_to=12)
    assert answer is None or not answer.fits


def test_the_residual_is_that_of_the_answer() -> None:
    _, slopes, bias_slopes = gradient(6, density=0.4)
    noisy = slopes + 0.3 * np.random.default_rng(2).normal(size=slopes.shape).astype(np.float32)
    answer = found(noisy, bias_slopes, n_frames=6)
    left = np.linalg.norm(noisy - answer.atoms @ answer.frames) / np.linalg.norm(noisy)
    assert answer.residual == pytest.approx(left)
    assert not answer.fits


def test_noise_alone_holds_no_frame() -> None:
    noise = 0.01 * np.random.default_rng(3).normal(size=(N_NEURONS, N_FEATURES))
    singular = np.linalg.svd(noise, compute_uv=False)
    assert n_frames_above(singular, shape=noise.shape, noise=0.01) == 0
    assert n_frames_above(singular, shape=noise.shape, noise=0.001) > 0


@pytest.mark.parametrize("codec", ["f16", "bf16", "int8"])
def test_the_noise_of_a_codec_is_measured_on_a_round_trip(codec: str) -> None:
    from fedcore.codecs.base import codec_of
    from fedcore.plan import Choice
    from fedcore.tensors import schema_of

    values = np.random.default_rng(4).normal(size=(N_NEURONS, N_FEATURES)).astype(np.float32)
    chosen = codec_of(Choice(name=codec))
    back, _ = chosen.decode(chosen.encode({"w": values}, note={}), schema=schema_of({"w": values}))
    error = float(np.sqrt(np.mean((back["w"] - values) ** 2)))
    assert 0.4 < error / noise_std(values, codec=codec) < 1.5


def test_a_codebook_holds_every_word_once() -> None:
    assert len(as_set(codebook(5))) == 32
    assert set(np.unique(codebook(5))) == {0, 1}
