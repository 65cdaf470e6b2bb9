"""What an inference graph says of its layers, so that operations are counted without torch."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch
from torch import nn

from fedcore.errors import ConfigError
from fedcore.graphs import GraphLayer
from fedcore.nn.models.network import Network, Sampling, Spiking

__all__ = ["graph_layers"]


def graph_layers(network: Network) -> tuple[GraphLayer, ...]:
    """The layers with weights, in order, each with the neurons that stand behind it."""
    layers: list[GraphLayer] = []
    x = torch.zeros(1, *network.spec.input_shape, device="meta")
    for name, layer in network.named_children():
        if isinstance(layer, Sampling):  # of means and deviations, in halves
            x = x[:, : layer.size]
        elif isinstance(layer, nn.Linear | nn.Conv2d | nn.AvgPool2d | nn.Flatten):
            x = layer(x)
        n_neurons = prod(x.shape[1:])
        if isinstance(layer, nn.Linear):
            layers.append(GraphLayer(name=name, kind="dense", neurons=n_neurons, spiking=False))
        elif isinstance(layer, nn.Conv2d):
            layers.append(
                GraphLayer(
                    name=name,
                    kind="conv",
                    neurons=n_neurons,
                    spiking=False,
                    stride=layer.stride[0],
                    padding=_sides(layer.padding),
                )
            )
        elif isinstance(layer, nn.AvgPool2d):  # stands before the neurons
            layers[-1] = replace(layers[-1], neurons=n_neurons)
        elif isinstance(layer, Spiking):
            layers[-1] = replace(layers[-1], spiking=True)
    return tuple(layers)


def _sides(padding: tuple[int, ...] | str) -> int:
    """On every side; our convolutions name a number."""
    if isinstance(padding, str):
        raise ConfigError(f"padding {padding!r} is not counted; name the number of pixels")
    return padding[0]
