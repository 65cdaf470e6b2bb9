"""The operators behind a function of tensors, with sizes that may grow with the batch.

torch runs the function on fake tensors, so that a Python branch on a tensor's value is an error and
never a silent constant, and records the operators below autograd: backward passes, whoever wrote
them, are operators like all others. It is done for two batch sizes; a number that differs between
the two has to be a multiple of the batch size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fedcore.errors import ConfigError

__all__ = ["Meta", "Node", "PerExample", "Shape", "Trace", "fixed", "times", "trace"]

_BATCH_SIZES = (2, 3)


@dataclass(frozen=True)
class PerExample:
    """A whole number that grows with the batch: this many times its size."""

    number: int


Shape = tuple[int | PerExample, ...]


def times(number: int | PerExample, factor: int) -> int | PerExample:
    """A multiple."""
    if isinstance(number, PerExample):
        return PerExample(number.number * factor)
    return number * factor


def fixed(sizes: Shape) -> tuple[int, ...]:
    """Sizes that do not depend on the batch.

    Raises:
        ConfigError: one does.
    """
    numbers = tuple(n for n in sizes if isinstance(n, int))
    if len(numbers) < len(sizes):
        raise ConfigError("images or kernels grow with the batch")
    return numbers


@dataclass(frozen=True)
class Meta:
    """What is known of a tensor before anything runs."""

    shape: Shape
    dtype: torch.dtype


@dataclass(frozen=True)
class Node:
    """A call of an operator.

    Attributes:
        operator: of torch, or Python's getitem for one of several results.
        args: tensors stand as `fx.Node`s, numbers that grow with the batch as `PerExample`.
        kwargs: likewise.
        key: by which later calls name the result.
        meta: of the result; None for several.
    """

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    key: fx.Node
    meta: Meta | None


@dataclass(frozen=True)
class Trace:
    """A function as a list of calls.

    Attributes:
        inputs: of the function by name, in order.
        nodes: in the order in which they run.
        constants: tensors that the function brought along.
        outputs: of the function by name, in order.
    """

    inputs: dict[str, tuple[fx.Node, Meta]]
    nodes: tuple[Node, ...]
    constants: dict[fx.Node, Tensor]
    outputs: dict[str, fx.Node]


def trace(
    function: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    example: Callable[[int], Mapping[str, Tensor]],
) -> Trace:
    """Follow a function of tensors.

    Args:
        function: from tensors by name to tensors by name.
        example: its argument for a batch size; only names, shapes and dtypes count.

    Raises:
        ConfigError: it cannot be followed, or does other things with another batch size.
    """
    arguments = [dict(example(size)) for size in _BATCH_SIZES]
    (small, names), (large, _) = (_operators(function, tensors) for tensors in arguments)
    pairs = list(zip(small.graph.nodes, large.graph.nodes, strict=False))
    if len(small.graph.nodes) != len(large.graph.nodes) or any(
        (a.op, str(a.target)) != (b.op, str(b.target)) for a, b in pairs
    ):
        raise ConfigError("which operators run depends on the batch size")
    places = [(a, _meta(a, b)) for a, b in pairs if a.op == "placeholder"]
    return Trace(
        inputs=dict(zip(arguments[0], places, strict=True)),
        nodes=tuple(_node(a, b) for a, b in pairs if a.op == "call_function"),
        constants={a: getattr(small, str(a.target)) for a, _ in pairs if a.op == "get_attr"},
        outputs=dict(zip(names, pairs[-1][0].args[0], strict=True)),
    )


def _operators(
    function: Callable[[dict[str, Tensor]], dict[str, Tensor]], tensors: dict[str, Tensor]
) -> tuple[fx.GraphModule, list[str]]:
    """What runs, and the names of the results."""
    names: list[str] = []

    def flat(*values: Tensor) -> list[Tensor]:
        found = function(dict(zip(tensors, values, strict=True)))
        names.extend(found)
        return list(found.values())

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # constants of a model are not fake
        fakes = [mode.from_tensor(tensor) for tensor in tensors.values()]
    try:
        module = make_fx(flat, decomposition_table=_decompositions())(*fakes)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"torch cannot trace it: {reason}") from error
    module.graph.eliminate_dead_code()
    return module, names


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """How torch makes few kinds of operators of many."""
    return {**torch.export.default_decompositions()}


def _node(a: fx.Node, b: fx.Node) -> Node:
    """One call out of what it was for either batch size."""
    args, kwargs = _merge(a.args, b.args), _merge(dict(a.kwargs), dict(b.kwargs))
    several = not isinstance(a.meta["val"], Tensor)
    return Node(a.target, args, kwargs, a, None if several else _meta(a, b))


def _meta(a: fx.Node, b: fx.Node) -> Meta:
    small, large = a.meta["val"], b.meta["val"]
    return Meta(_merge(tuple(small.shape), tuple(large.shape)), small.dtype)


def _merge(a: Any, b: Any) -> Any:
    """One argument out of what it was for either batch size."""
    if isinstance(a, fx.Node):
        return a
    if isinstance(a, list | tuple):
        return tuple(_merge(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return {key: _merge(value, b[key]) for key, value in a.items()}
    if a == b:
        return a
    small, large = _BATCH_SIZES
    if type(a) is int and type(b) is int and a * large == b * small:
        return PerExample(a // small)
    raise ConfigError(f"a number depends on the batch size and is no multiple of it: {a}, {b}")
