"""Operation counts against counts by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedcore.errors import ConfigError
from fedcore.nn.arrays import to_tensors
from fedcore.nn.functional import gradient
from fedcore.nn.models import build, initial_weights
from fedcore.nn.models.network import Network
from fedcore.nn.probes import count_layers
from fedcore.operations import LayerCount, training_counts
from fedcore.plan import ModelSpec, NeuronSpec

pytestmark = pytest.mark.torch


def test_a_spiking_network_small_enough_to_count_by_hand():
    """Weights of 1, no bias, decay 1: hidden neurons fire whenever a spike arrives."""
    spec = ModelSpec(
        name="mlp",
        spiking=True,
        input_shape=(3,),
        n_classes=2,
        neuron=NeuronSpec(decay=1.0, reset="zero"),
        options={"hidden": [4]},
    )
    params = {
        "hidden1.weight": torch.ones(4, 3),
        "hidden1.bias": torch.zeros(4),
        "readout.weight": torch.ones(2, 4),
        "readout.bias": torch.zeros(2),
    }
    train = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])[:, None]  # 3 spikes in 3 steps
    assert count_layers(build(spec), params, train) == (
        # They fire at steps 0 and 2.
        LayerCount(name="hidden1", neurons=4, steps=3, spikes=8, acs=3 * 4, dense=3 * 12),
        LayerCount(name="readout", neurons=2, steps=3, acs=8 * 2, dense=3 * 8),
    )
    # Grey values cost multiplications, whatever their value.
    grey = count_layers(build(spec), params, train * 0.5)
    assert grey[0].macs == grey[0].dense == 3 * 3 * 4
    assert grey[0].acs == 0
    # Spikes pick errors for the weights' gradients; only the readout's inputs need gradients.
    hidden, readout = training_counts(count_layers(build(spec), params, train))
    assert (hidden.acs, hidden.macs, hidden.dense) == (2 * 12, 0, 2 * 36)
    assert (readout.acs, readout.macs, readout.dense) == (2 * 16, 24, 3 * 24)


def test_counts_are_per_example():
    spec = ModelSpec(name="lenet", spiking=True, init_gain=3.0)
    params = to_tensors(initial_weights(spec, 1))
    inputs = torch.rand(4, 5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = count_layers(build(spec), params, inputs)
    each = [count_layers(build(spec), params, inputs[:, i : i + 1]) for i in range(5)]
    for n, layer in enumerate(batch):
        for field in ("spikes", "acs", "macs", "dense"):
            values = [getattr(one[n], field) for one in each]
            assert getattr(layer, field) == pytest.approx(sum(values) / 5)
    assert batch[0].macs > 0
    assert all(layer.spikes > 0 for layer in batch[:3])
    assert batch[1].acs > 0
    assert batch[1].macs == 0  # spikes arrive


def test_convolutions_count_the_weights_that_a_pixel_meets():
    """One pixel at a corner, a 3x3 kernel with padding 1: it lies in 4 windows, at 2 channels."""
    spec = ModelSpec(
        name="vgg-small", input_shape=(1, 4, 4), n_classes=2, options={"channels": [2]}
    )
    params = to_tensors(initial_weights(spec, 1))
    corner, centre = torch.zeros(2, 1, 1, 1, 4, 4)
    corner[..., 0, 0] = 1
    centre[..., 1, 2] = 1
    (first, second, readout) = count_layers(build(spec), params, corner)
    assert (first.acs, first.macs, first.neurons) == (4 * 2, 0, 2 * 4 * 4)
    assert second.neurons == 2 * 2 * 2  # pooled
    assert readout.macs == 8 * 2
    assert count_layers(build(spec), params, centre)[0].acs == 9 * 2
    # A full image: 4 corners in 4 windows, 8 edges in 6, 4 inner pixels in 9.
    full = count_layers(build(spec), params, torch.full((1, 1, 1, 4, 4), 0.5))[0]
    assert full.macs == full.dense == (4 * 4 + 8 * 6 + 4 * 9) * 2
    assert full.spikes == 0


def test_probing_leaves_nothing_behind():
    model = build(ModelSpec(name="lenet", spiking=True))
    params = to_tensors(initial_weights(model.spec, 1))
    count_layers(model, params, torch.rand(2, 1, 1, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("n_examples", [1, 8])
def test_a_training_step_multiplies_as_often_as_torch_says(n_examples):
    """Torch's own counter is the oracle: two floating-point operations per product."""
    spec = ModelSpec(name="mlp", input_shape=(5,), n_classes=3, options={"hidden": [7, 4]})
    model, params = build(spec), to_tensors(initial_weights(spec, 1))
    inputs = torch.rand(2, n_examples, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(n_examples, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        gradient(model, params, inputs, labels)
    layers = training_counts(count_layers(model, params, inputs))
    assert sum(layer.macs for layer in layers) * n_examples * 2 == counter.get_total_flops()
    assert all(layer.macs == layer.dense for layer in layers)
    assert layers[0].macs == 2 * 2 * 35  # two steps, forward and the weights' gradient


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(1, 1, 3),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(1, 1, 3, dilation=2),
        nn.LSTM(3, 3),
    ],
    ids=["transposed", "grouped", "dilated", "recurrent"],
)
def test_what_is_not_understood_is_refused_by_name_rather_than_counted_as_nothing(layer):
    model = Network(ModelSpec(name="mlp"), {"odd": layer})
    with pytest.raises(ConfigError, match="layer 'odd'"):
        count_layers(model, {}, torch.zeros(1, 1, 3))


@pytest.mark.parametrize("normalisation", ["none", "batch-train"])
@pytest.mark.parametrize("base", ["convnet", "vgg-small", "lenet"])
def test_every_network_of_ours_is_counted(base, normalisation):
    options = {"base": base, "options": {"normalisation": normalisation}, "size": 4}
    spec = ModelSpec(name="bottleneck", spiking=True, options=options)
    params = to_tensors(initial_weights(spec, 1))
    layers = count_layers(build(spec), params, torch.rand(2, 2, *spec.input_shape))
    assert {f"{layer.name}.weight" for layer in layers} == {
        name for name in params if name.endswith(".weight") and "_norm" not in name
    }
    assert all(layer.dense >= layer.acs + layer.macs for layer in layers)


@pytest.mark.parametrize(("padding", "inside"), [(0, True), (1, False)])
def test_convolutions_train_as_torch_says_but_for_padding(padding, inside):
    """Torch multiplies the zeros of the padding, too; nothing there is a product of ours."""
    spec = ModelSpec(name="mlp", input_shape=(2, 7, 7), n_classes=3)
    layers = {
        "conv1": nn.Conv2d(2, 4, 3, padding=padding),
        "conv1_neurons": nn.ReLU(),
        "conv2": nn.Conv2d(4, 3, 3, stride=2, padding=padding),
        "conv2_neurons": nn.ReLU(),
        "readout_flatten": nn.Flatten(),
        "readout": nn.Linear(3 * (4 if padding else 2) ** 2, 3),
    }
    model = Network(spec, layers)
    params = {name: value.detach() for name, value in model.named_parameters()}
    inputs = torch.rand(2, 8, 2, 7, 7, generator=torch.Generator().manual_seed(1))
    with FlopCounterMode(display=False) as counter:
        gradient(model, params, inputs, torch.zeros(8, dtype=torch.int64))
    ours = sum(layer.macs for layer in training_counts(count_layers(model, params, inputs))) * 8
    assert (2 * ours == counter.get_total_flops()) == inside
    assert 2 * ours <= counter.get_total_flops()
