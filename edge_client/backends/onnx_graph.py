"""Whether a graph may run here: ONNX's plain operators, nothing outside its own bytes.

A board has no onnx package. What must be known of a graph before ONNX Runtime sees it are a few
fields of its protobuf message (onnx.proto of ONNX 1.x), which are read here by their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from fedcore.errors import ConfigError
from fedcore.graphs import OPERATORS

__all__ = ["check_graph"]

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = 5, 10
_ATTRIBUTE_GRAPHS = (6, 11)  # bodies of loops and branches
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_OUR_DOMAINS = (b"", b"ai.onnx")


def check_graph(blob: bytes) -> None:
    """Let a graph pass that consists of known operators and of its own bytes.

    Args:
        blob: a serialised onnx.ModelProto.

    Raises:
        ConfigError: it holds an operator that is not in `fedcore.graphs.OPERATORS`, a function, a
            body of a loop or branch, or data in another file; or it is no model at all.
    """
    graphs = list(_children(blob, _MODEL_GRAPH))
    if len(graphs) != 1:
        raise ConfigError(f"a graph of {len(blob)} bytes came that is no ONNX model")
    if any(_children(blob, _MODEL_FUNCTIONS)):
        raise ConfigError("the ONNX graph defines functions of its own; export it with Leakwatt")
    (graph,) = graphs
    for tensor in _children(graph, _GRAPH_INITIALIZER):
        _check_tensor(tensor)
    if any(_children(graph, _GRAPH_SPARSE)):
        raise ConfigError("the ONNX graph holds sparse tensors; export it with Leakwatt")
    for node in _children(graph, _GRAPH_NODE):
        _check_node(node)


def _check_node(node: bytes) -> None:
    name = b"".join(_children(node, _NODE_TYPE)).decode(errors="replace")
    domain = b"".join(_children(node, _NODE_DOMAIN))
    if domain not in _OUR_DOMAINS or name not in OPERATORS:
        shown = f"{domain.decode(errors='replace')}::{name}".removeprefix("::")
        raise ConfigError(
            f"the ONNX graph holds the operator {shown!r:.80}, which clients do not run"
        )
    for attribute in _children(node, _NODE_ATTRIBUTE):
        if any(any(_children(attribute, number)) for number in _ATTRIBUTE_GRAPHS):
            raise ConfigError(f"operator {name!r} of the ONNX graph holds a graph of its own")
        for number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            for tensor in _children(attribute, number):
                _check_tensor(tensor)


def _check_tensor(tensor: bytes) -> None:
    if any(True for field in _fields(tensor) if field[0] in (_TENSOR_EXTERNAL, _TENSOR_LOCATION)):
        raise ConfigError(
            "the ONNX graph keeps a tensor in another file; clients run self-contained graphs only"
        )


def _children(message: bytes, number: int) -> Iterator[bytes]:
    """The strings and messages in a field."""
    return (data for found, data in _fields(message) if found == number and type(data) is bytes)


def _fields(message: bytes) -> list[tuple[int, object]]:
    """Numbers and contents of a message's fields."""
    try:
        fields = UnknownFieldSet(Empty.FromString(message))
        return [(fields[i].field_number, fields[i].data) for i in range(len(fields))]
    except (DecodeError, NotImplementedError) as error:
        raise ConfigError(f"the ONNX graph is damaged ({error})") from error
