"""Examples of a batch, separated by the gradient of the layer that they went through."""

from __future__ import annotations

import numpy as np
import pytest

from attacker.peeling.unmixing import unmix
from fedcore.seeds import stream


def residuals(labels: np.ndarray, *, n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Softmax minus one-hot, [example, class]."""
    scores = np.exp(2 * rng.normal(size=(len(labels), n_classes)))
    return scores / scores.sum(1, keepdims=True) - np.eye(n_classes)[labels]


def mixed(features: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of a linear layer in float32."""
    weight = slopes.astype(np.float32).T @ features.astype(np.float32)
    return weight, slopes.sum(0).astype(np.float32)


def worst_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Of the examples, each beside the answer that fits it best."""
    distances = np.linalg.norm(found[:, None] - truth, axis=2) / np.linalg.norm(truth, axis=1)
    return float(distances.min(0).max())


@pytest.mark.parametrize("n_examples", [2, 4, 8])
@pytest.mark.parametrize("kind", ["rectified", "spikes"])
def test_sparse_features_of_every_example_are_found(kind: str, n_examples: int) -> None:
    rng = stream(0, kind, n_examples)
    labels = rng.integers(10, size=n_examples)
    if kind == "rectified":
        features = rng.normal(size=(n_examples, 400)).clip(min=0)
    else:
        spikes = rng.random((4, n_examples, 400)) < 0.15
        features = np.tensordot([0.4, 0.3, 0.2, 0.1], spikes, axes=1)
    slopes = residuals(labels, n_classes=10, rng=rng)
    answer = unmix(*mixed(features, slopes), n_examples=n_examples, rng=rng)
    assert answer is not None
    assert worst_error(answer.features, features) < 1e-3
    assert answer.negative_mass < 1e-8
    assert sorted(answer.residuals.argmin(1)) == sorted(labels)


def test_an_example_that_the_model_is_sure_of_does_not_hide() -> None:
    rng = stream(0, "sure")
    features = rng.normal(size=(4, 400)).clip(min=0)
    slopes = residuals(np.array([1, 1, 5, 7]), n_classes=10, rng=rng)
    slopes[2] *= 1e-3
    answer = unmix(*mixed(features, slopes), n_examples=4, rng=rng)
    assert answer is not None
    assert worst_error(answer.features, features) < 1e-2


def test_the_length_of_the_gradient_changes_nothing() -> None:
    rng = stream(0, "length")
    features = rng.normal(size=(3, 200)).clip(min=0)
    weight, bias = mixed(features, residuals(np.array([0, 3, 3]), n_classes=10, rng=rng))
    one, other = (
        unmix(factor * weight, factor * bias, n_examples=3, rng=stream(1))
        for factor in (1.0, np.float32(2.0**-40))
    )
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.features, other.features, rtol=1e-5, atol=1e-6)


def test_dense_features_leave_no_example_silent() -> None:
    rng = stream(0, "dense")
    features = 0.2 + rng.random((4, 200))
    slopes = residuals(np.array([0, 1, 2, 3]), n_classes=10, rng=rng)
    answer = unmix(*mixed(features, slopes), n_examples=4, rng=rng)
    assert answer is None or answer.n_silent.min() < 3 * 4


def test_more_examples_than_residuals_can_tell_apart_are_not_separated() -> None:
    rng = stream(0, "many")
    features = rng.normal(size=(4, 200)).clip(min=0)
    slopes = residuals(np.array([0, 1, 2, 3]), n_classes=4, rng=rng)
    assert unmix(*mixed(features, slopes), n_examples=4, rng=rng) is None


def test_two_equal_examples_are_not_called_separated() -> None:
    rng = stream(0, "twins")
    features = rng.normal(size=(3, 200)).clip(min=0)[[0, 1, 1]]
    slopes = residuals(np.array([0, 1, 1]), n_classes=10, rng=rng)[[0, 1, 1]]
    answer = unmix(*mixed(features, slopes), n_examples=3, rng=rng)
    assert answer is None or answer.negative_mass > 1e-8 or answer.n_silent.min() < 3 * 3
