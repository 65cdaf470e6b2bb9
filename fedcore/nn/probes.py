"""Counts what a forward run costs: spikes, neuron updates and synaptic operations, per layer.

A product of a weight and an input is counted where both exist (padding is free): as one
accumulation (AC) per weight that a spike meets if the layer's whole input is binary, and as one
multiply-accumulation (MAC) per weight and input otherwise, whatever the input's value. Biases,
pooling, normalisation and neuron dynamics are not synaptic; `neurons * steps` is the number of
neuron updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedcore.errors import ConfigError
from fedcore.nn.functional import logits
from fedcore.nn.models.axons import Axons
from fedcore.nn.models.network import Integrating, Network, Sampling, Spiking
from fedcore.nn.models.normalisation import BatchNorm
from fedcore.operations import LayerCount

__all__ = ["count_layers"]

_SYNAPSES = (nn.Conv2d, nn.Linear)
_NOT_SYNAPTIC = (nn.AvgPool2d, nn.Flatten, nn.ReLU, nn.Sigmoid, nn.Tanh)
_COUNTED = (*_SYNAPSES, *_NOT_SYNAPTIC, Axons, BatchNorm, Integrating, Sampling, Spiking)


def count_layers(
    model: Network, params: Mapping[str, Tensor], inputs: Tensor
) -> tuple[LayerCount, ...]:
    """Run the model once and count.

    Args:
        model: the network's structure.
        params: its weights.
        inputs: [time, batch, feature...].

    Returns:
        One entry per layer with weights, in order.

    Raises:
        ConfigError: a layer is of a kind that is not counted.
    """
    for name, layer in model.named_children():
        _check_kind(name, layer)
    steps, n_examples = inputs.shape[:2]
    counts: dict[str, LayerCount] = {}

    def count_synapses(
        name: str, layer: nn.Conv2d | nn.Linear, arrived: tuple[Tensor], currents: Tensor
    ) -> None:
        (x,) = arrived
        binary = bool(((x == 0) | (x == 1)).all())
        products = _products(layer, x if binary else torch.ones_like(x)) / n_examples
        counts[name] = LayerCount(
            name=name,
            neurons=currents[0].numel(),
            steps=steps,
            acs=products if binary else 0.0,
            macs=0.0 if binary else products,
            dense=_products(layer, torch.ones_like(x)) / n_examples if binary else products,
        )

    def count_pooled(name: str, _layer: nn.Module, _arrived: object, currents: Tensor) -> None:
        counts[name] = replace(counts[name], neurons=currents[0].numel())

    def count_spikes(name: str, _layer: nn.Module, _arrived: object, spikes: Tensor) -> None:
        counts[name] = replace(counts[name], spikes=float(spikes.sum()) / n_examples)

    hooks = []
    name = ""
    for child, layer in model.named_children():
        if isinstance(layer, _SYNAPSES):
            name = child  # what follows, up to the next synapses, belongs to this layer
            hooks.append(layer.register_forward_hook(partial(count_synapses, name)))
        elif isinstance(layer, nn.AvgPool2d):
            hooks.append(layer.register_forward_hook(partial(count_pooled, name)))
        elif isinstance(layer, Axons | Spiking):  # of the latter, those that axons deliver in time
            hooks.append(layer.register_forward_hook(partial(count_spikes, name)))
    try:
        with torch.no_grad():
            logits(model, params, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(counts.values())


def _check_kind(name: str, layer: nn.Module) -> None:
    weights_of_neurons = isinstance(layer, Spiking) and any(True for _ in layer.parameters())
    grouped = isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.dilation != (1, 1))
    if weights_of_neurons or grouped or not isinstance(layer, _COUNTED):
        raise ConfigError(
            f"operations of layer {name!r} ({layer}) are not counted; counted are Linear, Conv2d "
            "without groups and dilation, and neurons without weights of their own"
        )


def _products(layer: nn.Conv2d | nn.Linear, present: Tensor) -> float:
    """Number of products of a weight and a present (1) input, over time and batch."""
    if isinstance(layer, nn.Linear):
        return float(present.sum(dtype=torch.float64)) * layer.out_features
    window = present.new_ones(1, layer.in_channels, *layer.kernel_size)
    reached = F.conv2d(present, window, stride=layer.stride, padding=layer.padding)
    return float(reached.sum(dtype=torch.float64)) * layer.out_channels
