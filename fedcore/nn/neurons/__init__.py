"""Spiking neurons by name. Listing them imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedcore.registry import Registry

if TYPE_CHECKING:
    from fedcore.nn.neurons.base import Neuron

__all__ = ["NEURONS"]

NEURONS: Registry[type[Neuron[Any]]] = Registry(
    "neuron",
    {
        "lif": "fedcore.nn.neurons.lif:Lif",
        "slayer-cuba": "fedcore.nn.neurons.slayer_cuba:SlayerCuba",
    },
)
"""Each is built from its `NeuronSpec`."""
