"""What every registered metric keeps: the best score for the truth itself, a worse one for less."""

import numpy as np
import pytest

from fedcore.seeds import stream
from fedcore.types import Missing
from testbed.metrics import METRICS, Metric


def example(metric: Metric, seed: int) -> np.ndarray:
    rng = stream(seed, "metric contract")
    if metric.of == "labels":
        return rng.integers(10, size=4)
    return rng.random((4, 1, 12, 12), dtype=np.float32)


@pytest.fixture(params=METRICS.names())
def metric(request: pytest.FixtureRequest) -> Metric:
    if request.param == "ssim":
        pytest.importorskip("skimage")
    return METRICS.get(request.param)


def test_the_truth_itself_scores_best(metric: Metric) -> None:
    truth = example(metric, 0)
    assert metric.score(truth, truth.copy()) == pytest.approx(metric.best)


def test_another_example_scores_worse(metric: Metric) -> None:
    score = metric.score(example(metric, 0), example(metric, 1))
    assert not isinstance(score, Missing)
    assert metric.is_better(metric.best, score)
    assert not metric.is_better(score, metric.best)


def test_a_score_is_symmetric(metric: Metric) -> None:
    a, b = example(metric, 2), example(metric, 3)
    assert metric.score(a, b) == pytest.approx(metric.score(b, a))


def test_arguments_are_left_alone(metric: Metric) -> None:
    a, b = example(metric, 4), example(metric, 5)
    a.flags.writeable = b.flags.writeable = False
    metric.score(a, b)


def test_it_can_be_shown(metric: Metric) -> None:
    assert metric.label_for((1, 12, 12)).startswith(metric.label)
    assert metric.digits >= 0
