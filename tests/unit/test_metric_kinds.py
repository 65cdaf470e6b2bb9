"""Metrics of gradients, spectra, trains, series and identity, against closed forms and peers."""

import builtins
import math
from pathlib import Path

import numpy as np
import pytest

from fedcore.seeds import stream
from fedcore.types import Missing
from testbed.baselines import Auxiliary, Pool
from testbed.metrics import METRICS, learned, match_frames
from testbed.metrics.identity import identified, pool_rank, reidentified
from testbed.metrics.images import fft2d, gmsd
from testbed.metrics.series import correlation, smape
from testbed.metrics.trains import TAU_STEPS, spike_iou, temporal_correlation, van_rossum


def images(seed: int, *, channels: int = 1, side: int = 28) -> np.ndarray:
    return stream(seed, "kinds").random((2, channels, side, side), dtype=np.float32)


def spikes(seed: int) -> np.ndarray:
    return (stream(seed, "spikes").random((6, 2, 5)) < 0.4).astype(np.float32)


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (1, 28), (3, 32)])
def test_gmsd_is_that_of_piq(channels: int, side: int) -> None:
    piq, torch = pytest.importorskip("piq"), pytest.importorskip("torch")
    a, b = images(0, channels=channels, side=side), images(1, channels=channels, side=side)
    peer = float(piq.gmsd(torch.from_numpy(a), torch.from_numpy(b)))
    assert gmsd(a, b) == pytest.approx(peer, rel=1e-4)


def test_gmsd_of_a_flat_guess_is_the_spread_of_the_gradient_map() -> None:
    """By hand: a halved step of height 1 has the gradient 1 on two columns, zero padded below."""
    truth = np.zeros((1, 1, 12, 12))
    truth[..., 6:] = 1
    halved = np.pad(truth[0, 0, ::2, ::2], 1)
    across = (halved[:, 2:] - halved[:, :-2]) / 3
    down = (halved[2:] - halved[:-2]) / 3
    magnitude = np.hypot(
        across[:-2] + across[1:-1] + across[2:], down[:, :-2] + down[:, 1:-1] + down[:, 2:]
    )
    constant = 170 / 255**2
    assert gmsd(truth, np.zeros_like(truth)) == pytest.approx(
        float((constant / (magnitude**2 + constant)).std())
    )


@pytest.mark.parametrize("name", ["fsim", "haarpsi"])
def test_without_piq_it_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_piq(module: str, *args: object, **kwargs: object) -> object:
        if module == "piq":
            raise ModuleNotFoundError(name="piq")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_piq)
    score = METRICS.get(name).of_pair(images(0), images(1))
    assert isinstance(score, Missing)
    assert "piq" in score.why
    assert "leakwatt[metrics]" in score.why


def test_haarpsi_says_that_an_image_is_too_small() -> None:
    score = METRICS.get("haarpsi").of_pair(images(0, side=8), images(1, side=8))
    assert isinstance(score, Missing)
    assert "16 x 16" in score.why


def test_fft2d_is_blind_to_shifts_and_sees_brightness() -> None:
    truth = images(0).astype(np.float64)
    assert fft2d(truth, np.roll(truth, 3, axis=-1)) == pytest.approx(0, abs=1e-12)
    # Brightness is one coefficient of 28 * 28: the unitary one of a constant c is 28 c.
    assert fft2d(truth, truth + 0.1) == pytest.approx(2.8 / 28**2)


def test_spike_iou_counts() -> None:
    truth = np.array([[[1, 1, 0, 0]], [[0, 0, 0, -1]]])
    guess = np.array([[[1, 0, 1, 0]], [[0, 0, 0, 1]]])
    assert spike_iou(truth, guess) == 1 / 4
    assert spike_iou(np.zeros((2, 1, 3)), np.zeros((2, 1, 3))) == 1
    assert isinstance(spike_iou(truth * 0.5, guess), Missing)


def test_van_rossum_of_one_spike_and_none_is_known() -> None:
    """The integral of exp(-2 t / tau) / tau, as a geometric sum: 1 / (tau (1 - exp(-2 / tau)))."""
    truth = np.zeros((4, 1, 1))
    truth[1] = 1
    known = math.sqrt(1 / (TAU_STEPS * (1 - math.exp(-2 / TAU_STEPS))))
    assert van_rossum(truth, np.zeros_like(truth)) == pytest.approx(known)


def test_van_rossum_prefers_a_spike_that_is_nearly_in_time() -> None:
    near, far, truth = (np.zeros((20, 1, 1)) for _ in range(3))
    truth[5], near[6], far[15] = 1, 1, 1
    assert van_rossum(truth, near) < van_rossum(truth, far)


def test_temporal_correlation_ignores_scale_and_silent_neurons() -> None:
    truth = spikes(0)
    truth[..., 0] = 0
    assert temporal_correlation(truth, 0.3 * truth + 0.1) == pytest.approx(1)
    assert temporal_correlation(truth, np.ones_like(truth)) == 0
    assert isinstance(temporal_correlation(np.ones_like(truth), truth), Missing)


def test_frames_are_matched_over_steps_and_examples() -> None:
    pytest.importorskip("scipy")
    truth = spikes(1)
    order = stream(2, "order").permutation(truth.shape[0] * truth.shape[1])
    shuffled = truth.reshape(-1, truth.shape[2])[order].reshape(truth.shape)
    assert spike_iou(truth, shuffled) < 0.9
    np.testing.assert_array_equal(match_frames(truth, shuffled), truth)


def test_series_scores_of_known_pairs() -> None:
    truth = np.array([[[1.0, 2.0, 3.0]]])
    assert smape(truth, 3 * truth) == pytest.approx(100)  # 2 / ((1 + 3) / 2)
    assert smape(truth, np.zeros_like(truth)) == pytest.approx(200)
    assert correlation(truth, 1 - truth) == pytest.approx(-1)
    assert correlation(truth, np.ones_like(truth)) == 0
    assert isinstance(correlation(np.ones_like(truth), truth), Missing)


def test_identity_counts_and_a_tie_is_no_find() -> None:
    places = np.array([0, 2])
    distances = np.array([[0.1, 0.2, 0.3], [0.2, 0.2, 0.2]])
    assert reidentified(places, distances) == 0.5
    assert pool_rank(places, distances) == (1 + 2) / 2


def test_who_is_nearest_to_another_class_is_not_identified() -> None:
    distances = np.array([[0.1, 0.5, 0.9], [0.4, 0.2, 0.3], [0.2, 0.2, 0.6]])
    assert identified(np.array([0, 1, 2]), distances) == pytest.approx(2 / 3)
    assert identified(np.array([0, 2, 0]), distances) == pytest.approx(1 / 3)  # a tie is not found
    unknown = identified(np.array([0, 1, 2]), np.where(distances == 0.6, np.inf, distances))
    assert isinstance(unknown, Missing)
    assert "no other example" in unknown.why


def test_a_class_is_told_by_correlation() -> None:
    """Another picture of the same thing, paler and darker, is nearer than a brighter stranger."""
    rng = stream(7, "gallery")
    things = rng.random((3, 1, 6, 6), dtype=np.float32)
    gallery = Auxiliary(inputs=things, labels=np.array([4, 2, 0]))
    pool = Pool.of(gallery, [])
    pale = 0.2 + 0.3 * things[[1, 0]] + 0.02 * rng.random((2, 1, 6, 6), dtype=np.float32)
    distances = pool.class_distances(pale, np.array([2, 4]))
    assert distances.shape == (2, 5)
    assert np.isinf(distances[:, [1, 3]]).all()
    assert identified(np.array([2, 4]), distances) == 1
    oracle = 1 - np.corrcoef(pale[0].ravel(), things[2].ravel())[0, 1]
    assert distances[0, 0] == pytest.approx(oracle, abs=1e-6)
    flat = pool.class_distances(np.full((1, 1, 6, 6), 0.5, np.float32), np.array([2]))
    assert identified(np.array([2]), flat) == 0  # everything is as far


def test_lpips_downloads_nothing_and_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("piq")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # a call would raise
    pair = images(0), images(1)
    missing = METRICS.get("lpips").of_pair(*pair)
    assert isinstance(missing, Missing)
    assert "lpips_weights.pt" in missing.why
    assert str(tmp_path / "checkpoints") in missing.why


def test_lpips_shows_grey_images_in_three_channels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch, piq = pytest.importorskip("torch"), pytest.importorskip("piq")
    (tmp_path / "checkpoints").mkdir()
    for name in learned._FILES:
        (tmp_path / "checkpoints" / name).touch()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def distance(a, b):
        assert a.shape == b.shape == (2, 3, 28, 28)
        return (a - b).abs().mean(dim=(1, 2, 3))

    monkeypatch.setattr(piq, "LPIPS", lambda reduction: distance)
    learned._network.cache_clear()
    a, b = images(0), images(1)
    assert METRICS.get("lpips").of_pair(a, b) == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    small = METRICS.get("lpips").of_pair(a[..., :8, :8], b[..., :8, :8])
    assert "16 x 16" in small.why
    learned._network.cache_clear()
