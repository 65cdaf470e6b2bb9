"""What can be a network of SLAYER's and of a chip. Asked where runs are planned: without lava."""

from __future__ import annotations

from torch import nn

from fedcore.data.encodings import encoding_of
from fedcore.errors import ConfigError
from fedcore.nn.models import build
from fedcore.nn.neurons.slayer_cuba import SlayerCuba
from fedcore.plan import EncodingSpec, ModelSpec

__all__ = ["input_refusal", "refusal"]


def input_refusal(encoding: EncodingSpec) -> str | None:
    """What keeps a chip from receiving an encoding's trains, in one line; None if nothing does."""
    if encoding_of(encoding).is_binary:
        return None
    options = f" with options {dict(encoding.options)}" if encoding.options else ""
    return (
        f"encoding {encoding.name!r}{options} sends values other than 0 and 1, and a chip's inputs "
        "are spikes; take 'rate', 'latency', 'events' with binary, or 'delta' without off_spikes"
    )


def refusal(model: ModelSpec) -> str | None:
    """What keeps a client from training a model with SLAYER, in one line; None if nothing does.

    Args:
        model: as the defences have it.
    """
    if not model.spiking or model.neuron.name != "slayer-cuba":
        found = f"neuron {model.neuron.name!r}" if model.spiking else "no spiking neurons"
        return f"model {model.name!r} has {found}; SLAYER trains 'slayer-cuba' only"
    try:
        network = build(model)
        neuron = SlayerCuba(model.neuron)
        neuron.slayer_parameters()
    except ConfigError as error:
        return str(error)
    if not neuron.options.quantise_weights:
        return "quantise_weights is false, and a chip has no weights but those of 8 bits"
    if neuron.learns_delays and any(isinstance(layer, nn.Conv2d) for layer in network.children()):
        return (
            f"model {model.name!r} has convolutions with delays, which netx does not load onto a "
            "chip; set delay = false, or take model 'mlp'"
        )
    return None
