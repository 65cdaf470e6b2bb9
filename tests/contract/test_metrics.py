"""What every registered metric keeps: the best score for the truth itself, a worse one for less."""

import numpy as np
import pytest

from fedcore.seeds import stream
from fedcore.types import Missing
from testbed.metrics import METRICS, Metric


def example(metric: Metric, seed: int) -> np.ndarray:
    """What a metric scores, of four examples."""
    rng = stream(seed, "metric contract")
    if metric.of in ("labels", "classes"):
        return rng.integers(10, size=4)
    if metric.of == "trains":
        return (rng.random((5, 4, 6)) < 0.5).astype(np.float32)
    if metric.applies_to == "series":
        return rng.random((4, 3, 20), dtype=np.float32)
    return rng.random((4, 1, 16, 16), dtype=np.float32)


def pair(metric: Metric, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """A truth and a guess; of an identity the distances of the guess to the examples."""
    truth, guess = example(metric, first), example(metric, second)
    if metric.of == "classes":
        return truth, (guess[:, None] != np.arange(10)).astype(np.float64)
    if metric.of != "identity":
        return truth, guess
    distances = ((guess[:, None] - truth[None]) ** 2).mean(axis=(2, 3, 4))
    return np.arange(4), distances if first == second else np.roll(distances, 1, axis=0)


@pytest.fixture(params=METRICS.names())
def metric(request: pytest.FixtureRequest) -> Metric:
    if request.param == "ssim":
        pytest.importorskip("skimage")
    if request.param in ("fsim", "haarpsi"):
        pytest.importorskip("piq")
    metric = METRICS.get(request.param)
    if request.param == "lpips" and isinstance(metric.of_pair(*pair(metric, 0, 0)), Missing):
        pytest.skip("its weights are not here")
    return metric


def test_the_truth_itself_scores_best(metric: Metric) -> None:
    assert metric.of_pair(*pair(metric, 0, 0)) == pytest.approx(metric.best)


def test_another_example_scores_worse(metric: Metric) -> None:
    score = metric.of_pair(*pair(metric, 0, 1))
    assert not isinstance(score, Missing)
    assert metric.is_better(metric.best, score)
    assert not metric.is_better(score, metric.best)


def test_a_score_is_symmetric(metric: Metric) -> None:
    if not metric.is_symmetric:
        pytest.skip("does not claim to be symmetric")
    a, b = pair(metric, 2, 3)
    assert metric.of_pair(a, b) == pytest.approx(metric.of_pair(b, a))


def test_arguments_are_left_alone(metric: Metric) -> None:
    a, b = pair(metric, 4, 5)
    a.flags.writeable = b.flags.writeable = False
    metric.of_pair(a, b)


def test_it_says_why_it_does_not_apply(metric: Metric) -> None:
    if metric.applies_to == "any":
        pytest.skip("applies to every input")
    shape = (3, 20) if metric.applies_to == "images" else (1, 16, 16)
    assert not metric.suits(shape)
    score = metric.of_pair(np.zeros((4, *shape)), np.zeros((4, *shape)))
    assert isinstance(score, Missing)
    assert metric.applies_to in score.why


def test_it_can_be_shown(metric: Metric) -> None:
    assert metric.label_for((1, 12, 12)).startswith(metric.label)
    assert metric.digits >= 0
