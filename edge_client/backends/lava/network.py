"""A model as SLAYER's own blocks, under the names and shapes of its twin in plain torch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
from lava.lib.dl.slayer.block import cuba
from torch import Tensor, nn
from torch.func import functional_call

from edge_client.backends.lava.limits import refusal
from fedcore.errors import ConfigError
from fedcore.nn.models import build
from fedcore.nn.models.network import Network, Run
from fedcore.nn.neurons.slayer_cuba import SlayerCuba
from fedcore.plan import ModelSpec
from fedcore.types import Missing, TensorMap
from hardware.opcount import LayerTable

__all__ = ["Exported", "SlayerNetwork"]


class Exported(NamedTuple):
    """A network for a chip.

    Attributes:
        hdf5: the file's content.
        layers: what it holds: weights are whole numbers, even, in [-256, 254].
    """

    hdf5: bytes
    layers: tuple[LayerTable, ...]

    @property
    def obstacle(self) -> Missing | None:
        """Why netx cannot load it: it divides by the largest weight."""
        silent = [layer.name for layer in self.layers if not layer.weight.any()]
        if not silent:
            return None
        return Missing(why=f"every weight of {', '.join(silent)} is 0 at 8 bits")


class SlayerNetwork(Network):
    """A network that SLAYER computes; whatever takes its twin takes it, too.

    The twin's layers say parameters and geometry. The blocks' own parameters are only what was last
    exported.

    Args:
        spec: of a model with neurons "slayer-cuba".

    Raises:
        ConfigError: SLAYER or a chip does not have such a network.

    Attributes:
        steps_per_layer: by which the trains of each layer lag behind those of the one before it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        if reason := refusal(spec):
            raise ConfigError(f"backend 'lava': {reason}")
        super().__init__(spec, dict(build(spec).named_children()))
        neuron, layers = SlayerCuba(spec.neuron), dict(self.named_children())
        common = {
            "neuron_params": neuron.slayer_parameters(),
            "delay_shift": neuron.options.delay_shift,
        }
        self.steps_per_layer = neuron.latency
        # Not registered: their parameters are not the model's.
        self._blocks: dict[str, Any] = {}
        for name, layer in layers.items():
            if isinstance(layer, nn.Linear):
                self._blocks[name] = block = cuba.Dense(
                    in_neurons=layer.in_features,
                    out_neurons=layer.out_features,
                    delay=f"{name}_axons" in layers,
                    **common,
                )
                if block.delay is not None:
                    block.delay.init = True  # or its first run would draw delays
            elif isinstance(layer, nn.Conv2d):
                self._blocks[name] = cuba.Conv(
                    in_features=layer.in_channels,
                    out_features=layer.out_channels,
                    kernel_size=layer.kernel_size,
                    stride=layer.stride,
                    padding=layer.padding,
                    **common,
                )
            elif isinstance(layer, nn.Flatten):
                self._blocks[name] = cuba.Flatten()

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Run:
        """Run SLAYER's blocks from rest; see `Network.forward`."""
        x, received = inputs.movedim(0, -1), {}
        given = dict(self.named_parameters())  # to `functional.run`
        for name, block in self._blocks.items():
            if isinstance(block, cuba.Flatten):
                x = block(x)
                continue
            received[name] = x.movedim(-1, 0)
            x = functional_call(block, _parameters(name, block, given), (x,))
        trace = x.movedim(-1, 0)
        return Run(received=received, trace=trace, logits=self._logits(trace), penalty=0.0)

    def tables(self, params: TensorMap) -> tuple[LayerTable, ...]:
        """Its layers with these weights, for counting their operations."""
        return tuple(
            _table(self.get_submodule(name), name=name, weight=params[f"{name}.weight"])
            for name, block in self._blocks.items()
            if not isinstance(block, cuba.Flatten)
        )

    def export(self, params: Mapping[str, Tensor]) -> Exported:
        """The network as netx reads it. It must have run before: blocks learn their shapes then.

        Args:
            params: the weights to export.
        """
        blob, written = io.BytesIO(), {}
        with h5py.File(blob, "w") as file:
            for number, (name, block) in enumerate(self._blocks.items()):
                group = file.create_group(f"layer/{number}")
                if isinstance(block, cuba.Flatten):
                    block.export_hdf5(group)
                    continue
                for own, tensor in _parameters(name, block, params).items():
                    block.get_parameter(own).data = tensor
                block.export_hdf5(group)
                written[f"{name}.weight"] = group["weight"][()].astype(np.int16)
        return Exported(hdf5=blob.getvalue(), layers=self.tables(written))


def _parameters(name: str, block: Any, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A layer's parameters by its block's own names; delays as copies, which SLAYER clamps."""
    own = {"synapse.weight": params[f"{name}.weight"].reshape(block.synapse.weight.shape)}
    if block.delay is not None:
        own["delay.delay"] = params[f"{name}_axons.delay"].clone()
    return own


def _table(layer: nn.Module, *, name: str, weight: np.ndarray) -> LayerTable:
    if not isinstance(layer, nn.Conv2d):
        return LayerTable(name=name, kind="dense", weight=weight)
    return LayerTable(
        name=name,
        kind="conv",
        weight=weight,
        stride=layer.stride[0],
        padding=int(layer.padding[0]),
    )
