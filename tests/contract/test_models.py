"""The contract of every registered model, as both twins and with every readout.

A model that can normalise stands here once more for each way in which it can.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from fedcore.nn.arrays import to_tensor, to_tensors
from fedcore.nn.functional import features, gradient, logits, loss, predict, step_weights, trace
from fedcore.nn.models import MODELS, READOUT, build, initial_weights
from fedcore.nn.models.architecture import Normalising
from fedcore.plan import ModelSpec, NeuronSpec

torch.set_num_threads(1)  # small tensors: more threads only wait for each other

NORMALISING = [name for name in MODELS.names() if issubclass(MODELS.get(name), Normalising)]
NORMALISED = [f"{name} {how}" for name in NORMALISING for how in ("batch-train", "batch-eval")]
pytestmark = [pytest.mark.torch, pytest.mark.parametrize("name", [*MODELS.names(), *NORMALISED])]

READOUTS = ["membrane_mean", "per_step", "spike_count"]
# Deep spiking networks fall silent from torch's default draw.
GAIN = {"vgg-small": 4.0}
SMALL = {"vgg-small": {"channels": [8, 8, 16]}}


def spec_of(name, **changes):
    """Of a model by name, or by name and normalisation."""
    name, _, normalisation = name.partition(" ")
    options = {**SMALL.get(name, {}), **({"normalisation": normalisation} if normalisation else {})}
    return replace(ModelSpec(name=name, init_gain=GAIN.get(name, 3.0), options=options), **changes)


def random_inputs(n_steps, n_examples):
    return torch.rand(n_steps, n_examples, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def names_and_shapes(spec):
    return [(n, tuple(p.shape)) for n, p in build(spec).named_parameters()]


def test_twins_have_the_same_names_and_shapes(name):
    ann = names_and_shapes(spec_of(name))
    for readout in READOUTS:
        assert names_and_shapes(spec_of(name, spiking=True, readout=readout)) == ann
    assert [n for n, _ in ann[-2:]] == [f"{READOUT}.weight", f"{READOUT}.bias"]


def test_initial_weights_are_the_models_and_repeat_with_the_seed(name):
    spec = spec_of(name)
    weights = initial_weights(spec, 7)
    assert [(n, w.shape) for n, w in weights.items()] == names_and_shapes(spec)
    assert {w.dtype for w in weights.values()} == {np.dtype(np.float32)}
    again, other = initial_weights(spec, 7), initial_weights(spec, 8)
    for n in weights:
        assert weights[n].tobytes() == again[n].tobytes()
        if "_norm." in n:
            assert (weights[n] == n.endswith(".weight")).all()
        else:
            assert not np.array_equal(weights[n], other[n])


def test_twins_start_from_the_same_draw_and_gain_scales_hidden_weights_only(name):
    plain = initial_weights(spec_of(name, init_gain=1.0), 7)
    tripled = initial_weights(spec_of(name, init_gain=3.0, spiking=True), 7)
    for n, w in plain.items():
        is_hidden_weight = n.endswith(".weight") and not n.startswith(READOUT) and "_norm." not in n
        np.testing.assert_allclose(tripled[n], w * (3 if is_hidden_weight else 1), rtol=1e-6)


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("readout", READOUTS)
def test_logits_are_weighted_steps_of_the_features(name, spiking, readout):
    spec = spec_of(name, spiking=spiking, readout=readout)
    model, params = build(spec), to_tensors(initial_weights(spec, 1))
    inputs = random_inputs(3, 2)
    received = features(model, params, inputs)
    weights = step_weights(spec, n_steps=3)
    assert received.shape == (3, 2, params["readout.weight"].shape[1])
    assert (weights is None) == (readout == "per_step" or (spiking and readout == "spike_count"))
    if weights is not None:
        currents = received @ params["readout.weight"].T + params["readout.bias"]
        found = torch.tensordot(weights.float(), currents, dims=1)
        torch.testing.assert_close(found, logits(model, params, inputs))


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("readout", READOUTS)
def test_logits_come_from_the_trace(name, spiking, readout):
    spec = spec_of(name, spiking=spiking, readout=readout)
    model, params = build(spec), to_tensors(initial_weights(spec, 1))
    inputs = random_inputs(3, 2)
    said = logits(model, params, inputs)
    assert said.shape == ((3, 2, 10) if readout == "per_step" else (2, 10))
    output = trace(model, params, inputs)
    assert output.shape == (3, 2, 10)
    assert predict(model, params, inputs).shape == (2,)
    if not spiking and not model.mixes_examples:  # applied to every step by itself, then averaged
        steps = torch.stack([logits(model, params, x[None]) for x in inputs]).view(3, 2, 10)
        torch.testing.assert_close(output, steps)
    if readout == "per_step":
        assert torch.equal(said, output)
    elif readout == "spike_count" and spiking:
        assert bool(((output == 0) | (output == 1)).all())
        assert torch.equal(said, output.sum(0))
    else:
        torch.testing.assert_close(said, output.mean(0))


def test_the_future_reaches_the_past_through_the_batchs_statistics_only(name):
    spec = spec_of(name, spiking=True, readout="per_step")
    model, params = build(spec), to_tensors(initial_weights(spec, 1))
    inputs = random_inputs(4, 2)
    other = torch.cat([inputs[:2], 3 * inputs[2:]])
    before, after = logits(model, params, inputs), logits(model, params, other)
    assert torch.allclose(before[:2], after[:2], atol=1e-5) != model.mixes_examples
    assert not torch.allclose(before[2:], after[2:])


@pytest.mark.parametrize("spiking", [False, True])
def test_examples_reach_each_other_through_the_batchs_statistics_only(name, spiking):
    spec = spec_of(name, spiking=spiking)
    model, params = build(spec), to_tensors(initial_weights(spec, 1))
    inputs = random_inputs(3, 4)
    alone = logits(model, params, inputs[:, :2])
    in_company = logits(model, params, inputs)[:2]
    assert torch.allclose(alone, in_company, atol=1e-5) != model.mixes_examples


def test_weights_are_an_argument_only(name):
    """A forgotten argument fails loudly instead of answering from hidden weights."""
    assert {p.device.type for p in build(spec_of(name)).parameters()} == {"meta"}


@pytest.mark.parametrize("spiking", [False, True])
def test_loss_falls_on_real_digits(name, spiking):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = to_tensor((digits.images[:64] / 16).astype(np.float32))[:, None]
    inputs = images.expand(4 if spiking else 1, *images.shape)
    labels = to_tensor(digits.target[:64])
    # A wider surrogate than the default, so that a dozen steps are enough.
    spec = spec_of(name, spiking=spiking, neuron=NeuronSpec(sharpness=5.0))
    model, params = build(spec), to_tensors(initial_weights(spec, 1))
    before = float(loss(model, params, inputs, labels))
    optimiser = torch.optim.Adam(params.values(), lr=0.01)
    for _ in range(12):
        for n, slope in gradient(model, params, inputs, labels).items():
            params[n].grad = slope
        optimiser.step()
    assert float(loss(model, params, inputs, labels)) < 0.95 * before
    assert all(float(p.grad.abs().max()) > 0 for p in params.values())  # every layer learns
