"""Operation counts against counts by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from fedcore.nn.arrays import to_tensors
from fedcore.nn.models import build, initial_weights
from fedcore.nn.probes import count_layers
from fedcore.operations import LayerCount
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
        LayerCount(name="hidden1", neurons=4, steps=3, spikes=8, acs=3 * 4),  # fire at steps 0, 2
        LayerCount(name="readout", neurons=2, steps=3, acs=8 * 2),
    )
    # Grey values cost multiplications, whatever their value.
    grey = count_layers(build(spec), params, train * 0.5)
    assert grey[0].macs == 3 * 3 * 4
    assert grey[0].acs == 0


def test_counts_are_per_example():
    spec = ModelSpec(name="lenet", spiking=True, init_gain=3.0)
    params = to_tensors(initial_weights(spec, 1))
    inputs = torch.rand(4, 5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = count_layers(build(spec), params, inputs)
    each = [count_layers(build(spec), params, inputs[:, i : i + 1]) for i in range(5)]
    for n, layer in enumerate(batch):
        for field in ("spikes", "acs", "macs"):
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
    assert full.macs == (4 * 4 + 8 * 6 + 4 * 9) * 2
    assert full.spikes == 0


def test_probing_leaves_nothing_behind():
    model = build(ModelSpec(name="lenet", spiking=True))
    params = to_tensors(initial_weights(model.spec, 1))
    count_layers(model, params, torch.rand(2, 1, 1, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())
