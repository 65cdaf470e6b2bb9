"""What is attacked: structure and weights, a person's own module or a model of ours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacker.attacks.base import NetworkOf
from attacker.audit.inspection import first_line, inspect
from attacker.audit.network import OwnNetwork
from attacker.audit.sent import Sent, Source, read_tensors
from fedcore.errors import AttackError, ConfigError
from fedcore.nn.arrays import to_arrays, to_tensor
from fedcore.nn.models import build
from fedcore.plan import EncodingSpec, ModelSpec
from fedcore.registry import nearest
from fedcore.types import TensorMap

__all__ = ["Model"]

_NO_ENCODING = EncodingSpec()


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with the weights that the server had sent. Made by `of_module` or `of_spec`.

    Attributes:
        spec: in our terms.
        encoding: between raw inputs and the network.
        weights: float32 by our names.
        names: their name of each parameter by ours, in our order.
        order: all their names in the order in which an update without names lists them.
        network_of: what attacks take for the network.
        is_own: whether it is a person's module, whose neurons cannot be changed from here.
        mixes_examples: whether an example's logits depend on the others of its batch.
    """

    spec: ModelSpec
    encoding: EncodingSpec
    weights: TensorMap
    names: Mapping[str, str]
    order: tuple[str, ...]
    network_of: NetworkOf
    is_own: bool
    mixes_examples: bool = False

    @classmethod
    def of_module(
        cls,
        module: nn.Module,
        *,
        input_shape: Sequence[int],
        weights: Source | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Model:
        """A person's own module: it takes [batch, *input_shape] and returns logits.

        Args:
            module: in the mode in which clients train it. In training mode BatchNorm takes the
                statistics of the candidate batch; in evaluation mode those it holds.
            input_shape: of one example.
            weights: that the server had sent, by the names of its `state_dict()`; those in the
                module where it is None.
            mean: of each channel, which clients take off inputs in [0, 1] first.
            std: of each channel, by which they divide then.

        Raises:
            ConfigError: the module, its weights and the shape do not fit together.
        """
        own = _copied(module)
        if weights is not None:
            _load(own, read_tensors(weights))
        shape = tuple(input_shape)
        found = inspect(own, input_shape=shape, normalised=_normaliser(mean, std, shape=shape))
        spec = ModelSpec(
            name=type(module).__name__,
            spiking=found.is_spiking,
            input_shape=shape,
            n_classes=found.n_classes,
        )
        network = OwnNetwork(spec, own, found)
        values = to_arrays(dict(own.named_parameters()))
        return cls(
            spec=spec,
            encoding=_NO_ENCODING,
            weights={ours: values[theirs] for ours, theirs in network.theirs.items()},
            names=network.theirs,
            order=tuple(own.state_dict()),
            network_of=lambda _: network,
            is_own=True,
            mixes_examples=found.mixes_examples,
        )

    @classmethod
    def of_spec(
        cls, spec: ModelSpec, *, weights: Source, encoding: EncodingSpec = _NO_ENCODING
    ) -> Model:
        """A model of Leakwatt's own, as an experiment file describes it.

        Raises:
            ConfigError: the weights are not of this model.
        """
        shapes = {name: tuple(p.shape) for name, p in build(spec).named_parameters()}
        given = _fitting(read_tensors(weights), shapes, what="the weights")
        return cls(
            spec=spec,
            encoding=encoding,
            weights=given,
            names={name: name for name in shapes},
            order=tuple(shapes),
            network_of=build,
            is_own=False,
        )

    def update_in(self, sent: Sent) -> TensorMap:
        """An update by our names: a gradient or a delta, float32.

        Raises:
            ConfigError: its tensors are not the model's; the message names the first that differs.
            AttackError: a value in it is NaN or infinite.
        """
        shapes = {theirs: self.weights[ours].shape for ours, theirs in self.names.items()}
        tensors = read_tensors(sent.tensors)
        if not tensors.keys() & shapes.keys():
            tensors = _named(tensors, (self.order, tuple(shapes)))
        known = {n: t for n, t in tensors.items() if n in shapes or n not in self.order}
        fitting = _fitting(known, shapes, what="the update")
        update = {ours: fitting[theirs] for ours, theirs in self.names.items()}
        if sent.kind == "weights":
            update = {name: new - self.weights[name] for name, new in update.items()}
        for name, values in update.items():
            if not np.isfinite(values).all():
                raise AttackError(f"{self.names[name]}: the update holds NaN or infinite numbers")
        return update


def _copied(module: nn.Module) -> nn.Module:
    """A copy in float32 on the CPU, whose BatchNorm layers in training mode keep no statistics."""
    try:
        own = copy.deepcopy(module, _without_history(module)).to("cpu", torch.float32)
    except Exception as error:  # a stranger's code may raise anything
        raise ConfigError(f"the module cannot be copied ({first_line(error)})") from error
    owners: dict[nn.Parameter, str] = {}
    for name, parameter in own.named_parameters(remove_duplicate=False):
        if parameter in owners:
            raise ConfigError(
                f"{owners[parameter]!r} and {name!r} are one parameter; attacks read each layer's "
                "gradient alone: give every layer parameters of its own"
            )
        owners[parameter] = name
    for part in own.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training:
            torch.func.replace_all_batch_norm_modules_(part)
    return own


def _without_history(module: nn.Module) -> dict[int, Any]:
    """What deepcopy takes for tensors that a run has left behind (membranes, say), by id."""
    held = [value for part in module.modules() for value in vars(part).values()]
    held += [value for table in held if isinstance(table, dict) for value in table.values()]
    return {id(t): t.detach() for t in held if isinstance(t, Tensor) and not t.is_leaf}


def _load(module: nn.Module, weights: TensorMap) -> None:
    """Put weights into a module; buffers may be left out."""
    held = module.state_dict()
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    if not weights.keys() & held.keys():
        weights = _named(weights, (tuple(held), tuple(shapes)))
    shapes |= {name: tuple(held[name].shape) for name in weights if name in held}
    found = _fitting(weights, shapes, what="the weights", is_float=False)
    module.load_state_dict({n: to_tensor(a) for n, a in found.items()}, strict=False)


def _named(tensors: TensorMap, orders: Sequence[tuple[str, ...]]) -> TensorMap:
    """Tensors that came without names, by the first list of names that has as many."""
    if tensors.keys() == {str(i) for i in range(len(tensors))}:
        for names in orders:
            if len(names) == len(tensors):
                return {name: tensors[str(i)] for i, name in enumerate(names)}
    return tensors


def _fitting(
    tensors: TensorMap,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    what: str,
    is_float: bool = True,
) -> TensorMap:
    """All tensors of these names, in their order.

    Raises:
        ConfigError: the first name that is missing, unknown or of another shape.
    """
    known = sorted(tensors)
    for name, shape in shapes.items():
        if name not in tensors:
            raise ConfigError(
                f"{what}: no {name!r}, which the module has (there: {', '.join(known)[:200]})"
                f"{nearest(name, known)}"
            )
        if tensors[name].shape != shape:
            raise ConfigError(
                f"{what}: {name!r} has shape {list(tensors[name].shape)}, the module's has "
                f"{list(shape)}"
            )
    for name in known:
        if name not in shapes:
            raise ConfigError(
                f"{what}: the module has no parameter {name!r}{nearest(name, sorted(shapes))}"
            )
    return {n: tensors[n].astype(np.float32) if is_float else tensors[n] for n in shapes}


def _normaliser(
    mean: Sequence[float] | None, std: Sequence[float] | None, *, shape: tuple[int, ...]
) -> Callable[[Tensor], Tensor]:
    """What clients do to inputs in [0, 1]."""
    constants = []
    for what, given, default in (("mean", mean, 0.0), ("std", std, 1.0)):
        values = [default] if given is None else list(given)
        if len(values) not in (1, shape[0]):
            raise ConfigError(
                f"{what}: got {len(values)} numbers, expected one, or one of each of the "
                f"{shape[0]} channels of input_shape"
            )
        constants.append(torch.tensor(values).reshape(-1, *[1] * (len(shape) - 1)))
    shift, scale = constants
    if not (scale > 0).all():
        raise ConfigError(f"std: expected numbers > 0; got {std}")
    if mean is None and std is None:
        return lambda inputs: inputs
    return lambda inputs: (inputs - shift.to(inputs)) / scale.to(inputs)
