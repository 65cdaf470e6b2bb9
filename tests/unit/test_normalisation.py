"""Batch normalisation: torch's own as the oracle, and what fixing the statistics changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch

from fedcore.errors import ConfigError
from fedcore.nn.arrays import to_tensors
from fedcore.nn.functional import batch_statistics, gradient, logits
from fedcore.nn.models import build, initial_weights
from fedcore.nn.models.normalisation import BatchNorm, Moments
from fedcore.plan import ModelSpec, NeuronSpec

pytestmark = pytest.mark.torch

TRAIN = {"normalisation": "batch-train", "channels": [4, 6]}
NET = ModelSpec(name="convnet", options=TRAIN, neuron=NeuronSpec(sharpness=5.0))


def drawn(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def run(norm, params, x):
    return torch.func.functional_call(norm, params, (x,), strict=True)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2)])
@pytest.mark.parametrize("is_fixed", [False, True])
def test_it_computes_what_torchs_own_does(shape, is_fixed):
    x, weight, bias, mean = drawn(*shape), drawn(3) + 0.5, drawn(3), drawn(3)
    fixed = Moments(mean, mean + 0.2) if is_fixed else None
    params = {"weight": weight, "bias": bias}
    running = (mean, mean + 0.2) if is_fixed else (None, None)
    expected = torch.nn.functional.batch_norm(x, *running, weight, bias, training=not is_fixed)
    torch.testing.assert_close(run(BatchNorm(3, fixed=fixed), params, x), expected)


def test_its_second_derivatives_are_right_under_vmap():
    norm, params = BatchNorm(3, fixed=None), {"weight": drawn(3), "bias": drawn(3)}
    x = drawn(2, 4, 3, 2).requires_grad_()

    def slopes(one):
        return torch.func.grad(lambda x: run(norm, params, x).pow(3).sum())(one)

    assert torch.autograd.gradcheck(torch.func.vmap(slopes), (x,))


@pytest.mark.parametrize("spiking", [False, True])
def test_a_network_fixed_at_a_batchs_statistics_says_the_same_of_that_batch(spiking):
    spec = replace(NET, spiking=spiking, init_gain=3.0)
    model, params = build(spec), to_tensors(initial_weights(spec, 1))
    inputs, labels = drawn(3, 5, 1, 8, 8).float(), torch.arange(5)
    statistics = batch_statistics(model, params, inputs)
    assert {name: len(values) for name, values in statistics.items()} == {
        "conv1_norm.mean": 4,
        "conv1_norm.variance": 4,
        "conv2_norm.mean": 6,
        "conv2_norm.variance": 6,
    }
    as_options = {name: values.tolist() for name, values in statistics.items()}
    options = {**TRAIN, "normalisation": "batch-eval", "statistics": as_options}
    fixed = build(replace(spec, options=options))
    torch.testing.assert_close(
        logits(fixed, params, inputs), logits(model, params, inputs), rtol=1e-4, atol=1e-5
    )
    own, given = (gradient(net, params, inputs, labels) for net in (model, fixed))
    torch.testing.assert_close(given["readout.weight"], own["readout.weight"], rtol=1e-3, atol=1e-5)
    away = (given["conv1.weight"] - own["conv1.weight"]).norm() / own["conv1.weight"].norm()
    assert away > 0.01  # the batch's own statistics have a gradient, fixed ones have none


def test_the_batchs_own_statistics_hide_contrast():
    """The first layer's input times a number is the same to the network, up to the epsilon."""
    model, params = build(NET), to_tensors(initial_weights(NET, 1))
    inputs = drawn(1, 5, 1, 8, 8).float()
    darker = logits(model, params, 0.5 * inputs)
    torch.testing.assert_close(darker, logits(model, params, inputs), atol=2e-3, rtol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalisation": "batch"}, "'batch', expected one of none, batch-train, batch-eval"),
        ({"statistics": {"conv1_norm.mean": [0.0]}}, "'batch-eval' takes; normalisation is 'none'"),
        (
            {"normalisation": "batch-eval", "statistics": {"conv1_norm.mean": [0.0] * 3}},
            "'conv1_norm.mean' must have 16 values, one per channel; got 3",
        ),
        (
            {
                "normalisation": "batch-eval",
                "statistics": {
                    f"conv{i}_norm.{kind}": [-1.0] * 16 * i
                    for i in (1, 2)
                    for kind in ("mean", "variance")
                },
            },
            "'conv1_norm.variance' must be >= 0",
        ),
        (
            {
                "normalisation": "batch-eval",
                "channels": [1],
                "statistics": {
                    "conv1_norm.mean": [0.0],
                    "conv1_norm.variance": [1.0],
                    "conv2_norm.mean": [0.0],
                },
            },
            "statistics of conv2_norm.mean: model 'convnet' has only conv1_norm.mean, conv1_norm",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        build(replace(NET, options=options))
    assert "\n" not in str(refusal.value)
