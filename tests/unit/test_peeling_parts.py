"""What the readout's gradient says, and the losses of the search for its cause."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.inputs import input_view  # noqa: E402
from attacker.peeling.convolutions import frozen_convolutions  # noqa: E402
from attacker.peeling.features import decode_trains, mean_features, rank_excess  # noqa: E402
from attacker.peeling.matching import FeatureMatching, Peeled  # noqa: E402
from attacker.peeling.readout import peel  # noqa: E402
from fedcore.nn.arrays import to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import features, gradient, run, step_weights  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, NeuronSpec  # noqa: E402
from fedcore.seeds import stream  # noqa: E402

pytestmark = pytest.mark.torch

SPIKING = ModelSpec(spiking=True, init_gain=3.0)


def images(n: int) -> np.ndarray:
    return stream(0, "images").random((n, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("n_steps", [1, 4, 8, 10])
def test_trains_are_read_from_their_weighted_means(n_steps: int) -> None:
    weights = step_weights(SPIKING, n_steps=n_steps).numpy()
    trains = stream(0, "trains").integers(2, size=(n_steps, 300))
    means = (weights / weights.sum()) @ trains
    decoded = decode_trains(means.astype(np.float32), weights)
    np.testing.assert_array_equal(decoded.trains, trains)
    assert decoded.deviation < 1e-6
    assert decoded.misfit < 0.05


def test_means_of_no_spikes_are_told_by_their_misfit() -> None:
    weights = step_weights(SPIKING, n_steps=4).numpy()
    decoded = decode_trains(stream(0, "any").random(2000).astype(np.float32), weights)
    assert 0.9 < decoded.misfit < 1.1


def test_steps_that_count_alike_give_no_trains_away() -> None:
    assert decode_trains(np.array([0.5], np.float32), np.full(4, 0.25)) is None


def test_the_readout_of_one_example_holds_its_trains_and_label() -> None:
    weights, train = (
        to_tensors(initial_weights(SPIKING, seed=0)),
        to_tensor(images(1)).expand(4, 1, 1, 8, 8),
    )
    network = build(SPIKING)
    slopes = gradient(network, weights, train, torch.tensor([3]))
    weight, bias = (slopes[f"readout.{kind}"].numpy() for kind in ("weight", "bias"))
    found = peel(
        weight,
        bias,
        step_weights=step_weights(SPIKING, n_steps=4).numpy(),
        n_examples=1,
        labels=None,
        rng=stream(0),
    )
    truth = features(network, weights, train)[:, 0].numpy()
    assert truth.any()
    np.testing.assert_array_equal(found.trains[0], truth)
    assert found.labels.tolist() == [3]
    assert found.certificate["rank_excess"] < 1e-6
    assert rank_excess(weight + stream(0).normal(size=weight.shape), bias) > 1e-3


def test_noise_on_small_classes_does_little_harm() -> None:
    truth = stream(0, "features").random(50)
    bias = np.array([1e-3, 0.9, -0.901])
    noise = 1e-4 * stream(0, "noise").normal(size=(3, 50))
    found = mean_features(np.outer(bias, truth) + noise, bias)
    np.testing.assert_allclose(found, truth, atol=1e-3)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_the_true_input_has_no_loss_and_others_have(reset: str) -> None:
    model = replace(SPIKING, neuron=NeuronSpec(reset=reset))
    network, weights = build(model), initial_weights(model, seed=0)
    truth = images(2)
    inputs = to_tensor(truth).expand(4, 2, 1, 8, 8)
    trains = features(network, to_tensors(weights), inputs).numpy()
    counts = step_weights(model, n_steps=4)
    means = np.tensordot(counts / counts.sum(), trains, axes=1).astype(np.float32)
    for known in (trains, None):
        matching = FeatureMatching(
            [
                Peeled(
                    weights=weights,
                    means=means[i],
                    trains=None if known is None else known[:, i],
                )
                for i in range(2)
            ],
            network=network,
            view=input_view(EncodingSpec(n_steps=4), input_shape=(1, 8, 8), batch_size=1),
            restarts=1,
            total_variation=0.0,
            n_spatial=2,
            step_weights=counts.float(),
        )
        rows = to_tensor(truth.reshape(2, -1))
        assert float(matching.losses(rows).max()) < 1e-6
        assert float(matching.losses(rows.flip(0)).min()) > 1e-2


@pytest.mark.parametrize("n_steps", [1, 2])
def test_every_convolution_has_its_observed_gradient_at_the_truth_alone(n_steps: int) -> None:
    model = ModelSpec(name="vgg-small", options={"channels": [4]})
    network, weights = build(model), to_tensors(initial_weights(model, seed=0))
    inputs = to_tensor(images(2)).expand(n_steps, 2, 1, 8, 8)
    each = [
        gradient(network, weights, inputs[:, i : i + 1], torch.tensor([label]))
        for i, label in enumerate((3, 7))
    ]
    observed = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    frozen = frozen_convolutions(network, weights, inputs, observed=observed)
    assert len(frozen) > 1
    others = run(network, weights, inputs.flip(1)).received
    for name, received in run(network, weights, inputs).received.items():
        if name in frozen:
            assert float(frozen[name].distance(received).max()) < 1e-8
            assert float(frozen[name].distance(others[name]).min()) > 1e-4


def test_rows_with_weights_of_their_own_do_not_touch_each_other() -> None:
    """Oracle: each search alone; slopes by finite differences of a smooth network."""
    model = ModelSpec(activation="sigmoid", init_gain=5.0)
    view = input_view(EncodingSpec(), input_shape=(1, 8, 8), batch_size=1)
    means = stream(0, "means").random((3, build(model).readout.in_features)).astype(np.float32)
    examples = [
        Peeled(weights=initial_weights(model, seed=i % 2), means=means[i], trains=None)
        for i in range(3)
    ]

    def matching(chosen: list[Peeled]) -> FeatureMatching:
        return FeatureMatching(
            chosen,
            network=build(model),
            view=view,
            restarts=2,
            total_variation=0.0,
            n_spatial=2,
            step_weights=torch.ones(1),
        )

    rows = to_tensor(stream(1, "rows").random((6, 64)).astype(np.float32))
    losses, slopes = matching(examples).evaluate(rows)
    for i, example in enumerate(examples):
        alone, its_slopes = matching([example]).evaluate(rows[2 * i : 2 * i + 2])
        torch.testing.assert_close(alone, losses[2 * i : 2 * i + 2])
        torch.testing.assert_close(its_slopes, slopes[2 * i : 2 * i + 2])
    step = torch.zeros_like(rows)
    step[:, 7] = 0.02
    rise = matching(examples).losses(rows + step) - matching(examples).losses(rows - step)
    torch.testing.assert_close(rise / 0.04, slopes[:, 7], rtol=2e-2, atol=1e-4)
