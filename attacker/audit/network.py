"""A person's module in the shape in which attacks look at networks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from attacker.audit.inspection import Inspection
from fedcore.errors import ConfigError
from fedcore.nn.models import READOUT
from fedcore.nn.models.network import Network, Run
from fedcore.plan import ModelSpec

__all__ = ["OwnNetwork", "Transformed"]


class OwnNetwork(Network):
    """Calls the module with the weights that it is given; time has one step.

    Its layers only say what there is: the module's layers with parameters, in the order in which
    they are used, "/" for "." in their names; the last one is called "readout" where the logits
    are its outputs. Buffers stay what they are in the module.

    Args:
        spec: gives the input's shape and the number of classes.
        module: the structure; never changed from here on.
        found: by `inspect`.

    Attributes:
        theirs: the module's name of each parameter by ours.
    """

    def __init__(self, spec: ModelSpec, module: nn.Module, found: Inspection) -> None:
        paths = {_layer_name(path, found.readout): path for path in found.layers}
        layers = {name: _outline(module.get_submodule(path)) for name, path in paths.items()}
        if not found.first_is_raw:
            layers = {"input": Transformed(), **layers}
        super().__init__(spec, layers)
        self._own = (module,)  # hidden in a tuple: its parameters are not this network's
        self._paths = paths
        self._normalised = found.normalised
        self.theirs: Mapping[str, str] = {
            f"{name}.{parameter}": f"{path}.{parameter}".lstrip(".")
            for name, path in paths.items()
            for parameter, _ in layers[name].named_parameters()
        }

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Run:
        """See `Network.forward`; there is one step, and nothing is drawn.

        Raises:
            ConfigError: the inputs are not [1, batch, *spec.input_shape].
        """
        del noise
        if (len(inputs), *inputs.shape[2:]) != (1, *self.spec.input_shape):
            expected = ", ".join(map(str, self.spec.input_shape))
            raise ConfigError(
                f"the module takes inputs [1, batch, {expected}]; got {list(inputs.shape)}"
            )
        (module,) = self._own
        received: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {self.theirs[name]: w for name, w in self.named_parameters()}
        elsewhere = {
            name: buffer.to(inputs.device)
            for name, buffer in module.named_buffers()
            if buffer.device != inputs.device
        }
        hooks = [
            module.get_submodule(path).register_forward_pre_hook(partial(_note, received, name))
            for name, path in self._paths.items()
        ]
        try:
            logits = functional_call(module, weights | elsewhere, (self._normalised(inputs[0]),))
        finally:
            for hook in hooks:
                hook.remove()
        return Run(received=received, trace=logits[None], logits=logits, penalty=0.0)


class Transformed(nn.Module):
    """Stands before the first layer where that does not receive the raw input itself."""


def _note(into: dict[str, Tensor], name: str, _: nn.Module, given: tuple[Any, ...]) -> None:
    """What a layer receives, [time, batch, feature...]."""
    if given and isinstance(given[0], Tensor):
        into[name] = given[0][None]


def _layer_name(path: str, readout: str | None) -> str:
    return READOUT if path == readout else path.replace(".", "/") or "/"


def _outline(layer: nn.Module) -> nn.Module:
    """The layer's type with its own parameters, without values; no buffers, no children."""
    outline = copy.copy(layer)
    outline._parameters = {
        name: None if parameter is None else nn.Parameter(parameter.detach().to("meta"))
        for name, parameter in layer._parameters.items()
    }
    outline._buffers, outline._modules = {}, {}
    return outline
