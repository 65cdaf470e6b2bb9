"""A graph that runs here: ONNX's plain operators, and nothing outside its own bytes.

A board has no onnx package. What must be known of a graph before ONNX Runtime sees it are a few
fields of its protobuf message (onnx.proto of ONNX 1.x), which are read here by their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnxruntime
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from fedcore.defences.noise import NoiseSource
from fedcore.errors import ConfigError
from fedcore.graphs import (
    FORMAT,
    FORMAT_KEY,
    LAYERS_KEY,
    MODEL_KEY,
    OPERATORS,
    GraphLayer,
    layers_from_text,
)

__all__ = ["Graph", "check_graph"]

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = 5, 10
_ATTRIBUTE_GRAPHS = (6, 11)  # bodies of loops and branches
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_ERRORS_ONLY = 3  # ONNX Runtime's warnings are about its own optimiser
_NO_PARAMETERS = frozenset({"inputs", "labels", "noise"})
_OUR_DOMAINS = (b"", b"ai.onnx")


class Graph:
    """A graph that was checked, ready to run.

    Args:
        blob: the serialised model.
        model: digest of the `ModelSpec` that it must be of.
        threads: of each operator; 0 is ONNX Runtime's choice.
        on: execution providers, the first one that can takes an operator.

    Raises:
        ConfigError: it may not run here, or is of another model or format.
    """

    def __init__(self, blob: bytes, *, model: str, threads: int, on: Sequence[str]) -> None:
        check_graph(blob)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # a block more per batch size, and no time less
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(blob, options, providers=list(on))
        except Exception as error:  # its exceptions have no other common base
            first_line = str(error).partition("\n")[0]
            raise ConfigError(f"onnxruntime refuses the graph: {first_line:.200}") from error
        self._metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._shapes = {node.name: node.shape for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]
        for what, key, expected in (("format", FORMAT_KEY, FORMAT), ("model", MODEL_KEY, model)):
            if (got := self._metadata.get(key)) != expected:
                raise ConfigError(
                    f"the graph is of {what} {got!r:.80}, the plan needs {expected!r}; prepare the "
                    "run with this version of leakwatt"
                )

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights that it takes, by name."""
        return {n: tuple(shape) for n, shape in self._shapes.items() if n not in _NO_PARAMETERS}

    @cached_property
    def layers(self) -> tuple[GraphLayer, ...]:
        """Its layers with weights.

        Raises:
            ConfigError: it does not say them.
        """
        if LAYERS_KEY not in self._metadata:
            raise ConfigError("the graph does not say of which layers it consists")
        return layers_from_text(self._metadata[LAYERS_KEY])

    def draws(self, inputs: np.ndarray, source: NoiseSource) -> dict[str, np.ndarray]:
        """What its random layers take for these inputs; nothing where nothing is random."""
        if "noise" not in self._shapes:
            return {}
        shape = (*inputs.shape[:2], self._shapes["noise"][2])
        return {"noise": source.standard_normal(shape).astype(np.float32)}

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Its outputs by name, from those of its inputs that are in the feed."""
        taken = {name: feed[name] for name in self._shapes}
        return dict(zip(self._outputs, self._session.run(None, taken), strict=True))


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
