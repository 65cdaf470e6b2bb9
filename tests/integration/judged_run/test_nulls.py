"""What stands beside a score: class mean, restarts, RDLV, a pool; and scores of claimed trains."""

from dataclasses import replace

import numpy as np
import pytest

from fedcore.types import Missing
from testbed.baselines import Auxiliary, Pool, class_mean_guess
from testbed.findings import Findings
from testbed.judge import judge
from testbed.metrics.trains import ORDERED
from testbed.statistics import Share


def judged(world, arm: str) -> Findings:
    return next(found for found in judge(world.run, world.private) if found.arm == arm)


def test_every_restart_counts_once(world) -> None:
    found = judged(world, "ann")
    rows = [score for score in found.scores if score.metric == "psnr"]
    summary = found.summary("psnr")
    assert isinstance(summary.restart_success, Share)
    assert summary.restart_success.n == sum(len(row.restarts) for row in rows) == 2 * len(rows)
    assert summary.restart_success.n_yes == sum(
        value > max(row.baselines["noise"], row.baselines["mean-image"])
        for row in rows
        for value in row.restarts
    )
    for row in rows:
        assert row.value in row.restarts
        assert row.oracle == max(row.restarts)


def test_rdlv_is_the_relative_gain_over_the_mean_image(world) -> None:
    found = judged(world, "ann")
    rows = [score for score in found.scores if score.metric == "ssim"]
    priors = [row.baselines["mean-image"] for row in rows]
    gains = [(row.value - p) / p for row, p in zip(rows, priors, strict=True) if p > 0]
    assert found.summary("ssim").rdlv.value == pytest.approx(np.mean(gains))
    assert isinstance(found.summary("psnr").rdlv, Missing)


def test_the_class_mean_is_of_the_true_class_and_a_null_for_images_alone(world) -> None:
    inputs = np.array([0.0, 0.2, 1.0], dtype=np.float32).reshape(3, 1, 1, 1)
    auxiliary = Auxiliary(inputs=inputs, labels=np.array([4, 4, 7]))
    guess = class_mean_guess(auxiliary, labels=np.array([7, 4, 1]))
    assert guess.inputs.ravel().tolist() == pytest.approx([1.0, 0.1, 0.4])  # 1 has no example
    labels = judged(world, "ann").summary("label-accuracy")
    assert isinstance(labels.baselines["class-mean"], Missing)


def test_a_near_miss_is_found_among_all_and_noise_is_not(world) -> None:
    near, far = judged(world, "ann"), judged(world, "snn")
    assert near.summary("reidentified").mean.value == 1
    assert near.summary("pool-rank").mean.value == 1
    assert near.summary("reidentified").baselines["noise"].value < 0.2
    assert far.summary("pool-rank").mean.value >= 1
    n_victims = len({world.truths[a.ticket].inputs.tobytes() for a in near.attempts})
    assert f"pool of {200 + n_victims}" in near.labels["reidentified"]


def test_a_pool_holds_every_content_once() -> None:
    images = np.arange(8, dtype=np.float32).reshape(4, 1, 1, 2)
    auxiliary = Auxiliary(inputs=images[:2], labels=np.zeros(2, dtype=np.int64))
    pool = Pool.of(auxiliary, [images[2:], images[3:]])
    assert len(pool) == 4
    np.testing.assert_array_equal(pool.places_of(images[[3, 2]]), [3, 2])
    oracle = ((images[[1]].reshape(1, -1) - images.reshape(4, -1)) ** 2).sum(axis=1)
    np.testing.assert_allclose(pool.distances(images[[1]])[0], oracle, atol=1e-12)


@pytest.mark.parametrize("ordered", [True, False])
def test_who_does_not_say_when_frames_came_has_no_score_in_time(make_world, ordered: bool) -> None:
    world = make_world(arms=[{"name": "snn", "encoding": {"name": "rate", "n_steps": 1}}])
    (answers,) = world.answers.values()
    world.answer_with("snn", [_with_trains(world, a, ordered=ordered) for a in answers])
    found = judged(world, "snn")
    assert found.summary("spike-iou").n == 0  # the digits in this vault were never made spikes
    times = [score.value for score in found.scores if score.metric == "van-rossum"]
    if ordered:
        assert all(value == pytest.approx(0, abs=1e-6) for value in times)
    else:
        assert all("when each frame came" in value.why for value in times)


def _with_trains(world, answer, *, ordered: bool):
    encoded = world.truths[answer.ticket].encoded_input
    return replace(
        answer, trains=np.stack([encoded, encoded]), certificate={ORDERED: float(ordered)}
    )
