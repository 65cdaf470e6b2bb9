"""Inputs that do not fit a model are refused in one line, and sizes follow torch's own."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from fedcore.errors import ConfigError, PluginError
from fedcore.nn.arrays import to_arrays, to_tensors
from fedcore.nn.functional import logits
from fedcore.nn.models import build, initial_weights
from fedcore.plan import ModelSpec

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec(name="lenet", input_shape=(9, 128)), r"'lenet' takes images .*\(9, 128\)"),
        (
            ModelSpec(name="vgg-small", input_shape=(1, 7, 8)),
            r"\(1, 7, 8\) is too small for model 'vgg-small': 1x2 is left .* 'block3b'",
        ),
        (ModelSpec(name="mlp", options={"hidden": [0]}), "hidden must be sizes >= 1"),
        (ModelSpec(name="convnet", options={"channels": []}), "at least one"),
        (ModelSpec(name="vgg-small", options={"channels": [-1]}), "channels must be sizes"),
        (ModelSpec(name="mlp", options={"hiden": [8]}), "'hiden'; did you mean 'hidden'"),
        (ModelSpec(name="lenet", options={"x": 1}), "model 'lenet': unknown key 'x'"),
        (ModelSpec(n_classes=10**12), "layer 'readout' of model 'lenet' would have 48000000000000"),
        (ModelSpec(name="mlp", options={"hidden": [2**62]}), "layer 'hidden1' of model 'mlp'"),
        (ModelSpec(name="convnet", options={"channels": [2**62]}), "layer 'conv1' of model"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_built(spec, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        build(spec)
    assert "\n" not in str(refusal.value)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(PluginError, match=r"did you mean 'lenet'"):
        build(ModelSpec(name="lennet"))


def test_inputs_of_another_shape_are_refused():
    spec = ModelSpec(name="mlp")
    params = to_tensors(initial_weights(spec, 1))
    with pytest.raises(
        ConfigError, match=r"takes inputs \[time, batch, 1, 8, 8\]; got \[1, 2, 64\]"
    ):
        logits(build(spec), params, torch.zeros(1, 2, 64))


@pytest.mark.parametrize("name", ["lenet", "convnet", "vgg-small"])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (28, 28), (32, 32)])
def test_images_of_any_size_pass(name, size):
    spec = ModelSpec(name=name, input_shape=(2, *size), n_classes=4)
    inputs = torch.zeros(1, 1, 2, *size)
    assert logits(build(spec), to_tensors(initial_weights(spec, 1)), inputs).shape == (1, 4)


def test_lenet_is_the_network_of_deep_leakage_from_gradients():
    """On 32x32 colour images its readout sees 12 x 8 x 8 = 768 features."""
    shapes = {
        n: tuple(p.shape)
        for n, p in build(ModelSpec(name="lenet", input_shape=(3, 32, 32))).named_parameters()
    }
    assert shapes["conv1.weight"] == (12, 3, 5, 5)
    assert shapes["conv2.weight"] == shapes["conv3.weight"] == (12, 12, 5, 5)
    assert shapes["readout.weight"] == (10, 768)


def test_initial_weights_fill_torchs_default_range():
    """Uniform in +-1/sqrt(fan in): the largest of many draws comes close to the bound."""
    weights = initial_weights(ModelSpec(name="mlp", options={"hidden": [1000]}), 1)
    bound = 64**-0.5
    for name in ("hidden1.weight", "hidden1.bias"):
        assert 0.99 * bound < abs(weights[name]).max() <= bound
        assert abs(weights[name].mean()) < 0.1 * bound


def test_arrays_and_tensors_do_not_share_memory():
    arrays = initial_weights(ModelSpec(name="mlp"), 1)
    tensors = to_tensors(arrays)
    back = to_arrays(tensors)
    tensors["readout.bias"].add_(1)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].tobytes() == array.tobytes()
