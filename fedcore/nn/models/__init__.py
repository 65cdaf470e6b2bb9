"""Networks by name, each in a conventional and a spiking form. Listing them imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedcore.plan import Choice, ModelSpec
from fedcore.registry import Registry
from fedcore.seeds import stream
from fedcore.strict import build as plugin

if TYPE_CHECKING:
    from fedcore.nn.models.architecture import Architecture
    from fedcore.nn.models.network import Network

__all__ = ["MODELS", "READOUT", "build", "initial_weights"]

READOUT = "readout"
"""Name of every model's last layer: its parameters are "readout.weight" and "readout.bias"."""

MODELS: Registry[type[Architecture]] = Registry(
    "model",
    {
        "bottleneck": "fedcore.nn.models.bottleneck:Bottleneck",
        "convnet": "fedcore.nn.models.convnet:ConvNet",
        "lenet": "fedcore.nn.models.lenet:LeNet",
        "mlp": "fedcore.nn.models.mlp:Mlp",
        "vgg-small": "fedcore.nn.models.vgg_small:VggSmall",
    },
)
"""Each is a frozen dataclass; its fields are the model's options."""


def build(spec: ModelSpec) -> Network:
    """The network that a spec describes; it holds structure, never weights.

    Raises:
        ConfigError: unknown name or option, or inputs that do not fit the model.
    """
    return plugin(MODELS, Choice(name=spec.name, options=spec.options)).build(spec)


def initial_weights(spec: ModelSpec, seed: int) -> dict[str, np.ndarray]:
    """Weights to start from, float32 by name: same seed, same bits on every machine.

    torch's default distribution for linear and convolutional layers, uniform in
    +-1/sqrt(inputs per neuron) for weights and biases; weights of hidden layers are then
    multiplied by `spec.init_gain`. A normalisation begins with scale 1 and shift 0, and delays of
    axons uniform in [0, 1), as SLAYER draws them. Each parameter has its own random stream, which
    `spiking` does not enter, so that twins start from the same draw. A spiking network of several
    hidden layers is silent behind the first at gain 1; about 3 to 4 lets spikes through.

    Raises:
        ConfigError: see `build`.
    """
    shapes = {name: tuple(p.shape) for name, p in build(spec).named_parameters()}
    weights = {}
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        draws = stream(seed, "initial weights", name)
        if kind == "delay":
            weights[name] = draws.random(shape, np.float32)
        elif len(shapes[f"{layer}.weight"]) == 1:  # of a normalisation: a scale per channel
            weights[name] = np.full(shape, kind == "weight", np.float32)
        else:
            bound = 1 / math.sqrt(math.prod(shapes[f"{layer}.weight"][1:]))
            gain = spec.init_gain if kind == "weight" and layer != READOUT else 1.0
            drawn = draws.uniform(-bound, bound, size=shape)
            weights[name] = (gain * drawn).astype(np.float32)
    return weights
