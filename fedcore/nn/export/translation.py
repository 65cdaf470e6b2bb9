"""From a trace to an ONNX model."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from torch import fx

from fedcore.errors import ConfigError
from fedcore.nn.export.graph import Graph, Value
from fedcore.nn.export.int8 import INTEGER_PRODUCTS
from fedcore.nn.export.operators import OPERATORS
from fedcore.nn.export.pointwise import Operator
from fedcore.nn.export.tracing import Meta, PerExample, Trace

__all__ = ["translate"]


def translate(trace: Trace, *, name: str, metadata: Mapping[str, str]) -> bytes:
    """The graph of a trace, checked.

    Args:
        trace: what is to run.
        name: of the graph.
        metadata: of the model.

    Raises:
        ConfigError: an operator has no translation.
    """
    graph = Graph()
    found: dict[fx.Node, Any] = dict(trace.constants)
    for called, (key, meta) in trace.inputs.items():
        found[key] = graph.input(called, meta)
    for node in trace.nodes:
        args, kwargs = _resolve(node.args, found), _resolve(node.kwargs, found)
        if not _varies(args) and not _varies(kwargs):
            found[node.key] = node.operator(*args, **kwargs)
        elif node.operator in _TABLE:
            found[node.key] = _TABLE[node.operator](graph, node.meta, *args, **kwargs)
        else:
            raise ConfigError(f"torch's operator {node.operator} has no ONNX translation")
    outputs = {
        called: graph.value(found[key], found[key].dtype) for called, key in trace.outputs.items()
    }
    model = graph.model(outputs, name=name, metadata=metadata)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _one_of(_graph: Graph, _meta: Meta, results: Sequence[Value], index: int) -> Value:
    return results[index]


_TABLE: dict[Any, Operator] = {**OPERATORS, **INTEGER_PRODUCTS, operator.getitem: _one_of}


def _resolve(argument: Any, found: Mapping[fx.Node, Any]) -> Any:
    """An argument with values in the place of nodes."""
    if isinstance(argument, fx.Node):
        return found[argument]
    if isinstance(argument, tuple):
        return [_resolve(item, found) for item in argument]
    if isinstance(argument, dict):
        return {key: _resolve(item, found) for key, item in argument.items()}
    return argument


def _varies(argument: Any) -> bool:
    """Whether it is known only when the graph runs."""
    if isinstance(argument, list):
        return any(map(_varies, argument))
    if isinstance(argument, dict):
        return any(map(_varies, argument.values()))
    return isinstance(argument, Value | PerExample)
