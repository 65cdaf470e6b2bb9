"""An ONNX graph in the making: equal nodes are made once, and broadcasting waits until it must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from fedcore.errors import ConfigError
from fedcore.nn.arrays import to_array
from fedcore.nn.export.tracing import Meta, PerExample, Shape

__all__ = ["IR_VERSION", "OPSET", "Graph", "Value"]

OPSET = 20
IR_VERSION = 10  # onnxruntime 1.18 and later read these two

_ELEMENT_TYPES = {
    torch.bool: TensorProto.BOOL,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
}


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        name: in the graph.
        shape: that it stands for.
        held: shape of what lies under the name; broadcasting it gives `shape`.
        dtype: of its elements.
        fill: the one value of all elements, where that is known.
    """

    name: str
    shape: Shape
    held: Shape
    dtype: torch.dtype
    fill: float | None = None


class Graph:
    """Nodes, constants and inputs, in the order in which they were added."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._known: dict[Any, tuple[str, ...]] = {}
        self._made: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._constants: dict[str, np.ndarray] = {}
        self._inputs: dict[str, Value] = {}
        self._before: dict[str, tuple[str, Value]] = {}  # what reshaped or transposed which value

    def input(self, name: str, meta: Meta) -> Value:
        """Declare an input."""
        self._inputs[name] = Value(name, meta.shape, meta.shape, meta.dtype)
        return self._inputs[name]

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, or find the same one; the name of its output."""
        return self.nodes(op, *inputs, n_outputs=1, **attributes)[0]

    def nodes(self, op: str, *inputs: str, n_outputs: int, **attributes: Any) -> tuple[str, ...]:
        """As `node`, for an operator with several outputs."""
        key = (op, inputs, n_outputs, repr(sorted(attributes.items())))
        if key not in self._known:
            outputs = tuple(f"{op}_{len(self._nodes)}_{i}" for i in range(n_outputs))
            self._nodes.append(helper.make_node(op, inputs, outputs, **attributes))
            self._known[key] = outputs
            self._made.update(dict.fromkeys(outputs, (op, inputs)))
        return self._known[key]

    def made(self, name: str, *, by: str) -> tuple[str, ...]:
        """Inputs of the node that made this, if it was by that operator; else none."""
        op, inputs = self._made.get(name, ("", ()))
        return inputs if op == by else ()

    def result(self, name: str, meta: Meta) -> Value:
        """What a node made."""
        return Value(name, meta.shape, meta.shape, meta.dtype)

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = array
            self._known[key] = (name,)
        return self._known[key][0]

    def integers(self, numbers: Sequence[int | PerExample]) -> str:
        """A vector of numbers that may grow with the batch, int64."""
        fixed = np.array([n if isinstance(n, int) else 0 for n in numbers], np.int64)
        growing = np.array([0 if isinstance(n, int) else n.number for n in numbers], np.int64)
        if not growing.any():
            return self.constant(fixed)
        grown = self.node("Mul", self._batch_size(), self.constant(growing))
        return self.node("Add", grown, self.constant(fixed)) if fixed.any() else grown

    def number(self, number: float | PerExample, dtype: torch.dtype) -> Value:
        """A scalar."""
        if isinstance(number, PerExample):
            scalar = self.node(
                "Squeeze", self.integers([number]), self.constant(np.array([0], np.int64))
            )
            return self.cast(Value(scalar, (), (), torch.int64), dtype)
        array = to_array(torch.tensor(number, dtype=dtype))
        return Value(self.constant(array), (), (), dtype, fill=float(number))

    def value(self, operand: Any, dtype: torch.dtype) -> Value:
        """An operand of an elementwise operator in the dtype that it computes in."""
        if isinstance(operand, Value):
            return self.cast(operand, dtype)
        if isinstance(operand, torch.Tensor):
            return self.cast(self.tensor(operand), dtype)
        return self.number(operand, dtype)

    def tensor(self, tensor: torch.Tensor) -> Value:
        """A constant tensor."""
        array = to_array(tensor)
        same = array.size and bool((array == array.flat[0]).all())
        fill = float(array.flat[0]) if same else None
        shape: Shape = tuple(array.shape)
        return Value(self.constant(np.ascontiguousarray(array)), shape, shape, tensor.dtype, fill)

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """The same numbers in another dtype."""
        if value.dtype == dtype:
            return value
        if value.fill is not None:
            return replace(self.number(value.fill, dtype), shape=value.shape)
        name = self.node("Cast", value.name, to=self._element_type(dtype))
        return replace(value, name=name, dtype=dtype)

    def whole(self, value: Value) -> str:
        """The name of the value in its full shape."""
        if value.held == value.shape:
            return value.name
        return self.node("Expand", value.name, self.integers(value.shape))

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The same elements in another shape."""
        if value.shape == shape:
            return value
        if value.fill is not None:
            return replace(self.number(value.fill, value.dtype), shape=shape)
        source = self._source(value, how="reshaped") or self._held_whole(value)
        if source.shape == shape:
            return source
        sizes = [n if isinstance(n, int) else -1 for n in shape]
        target = self.integers(sizes if sizes.count(-1) == 1 else shape)
        name = self.node("Reshape", source.name, target)
        self._before[name] = ("reshaped", source)
        return Value(name, shape, shape, value.dtype)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Axes in another order."""
        if list(order) == list(range(len(order))):
            return value
        if before := self.transposed(value):
            return before
        shape = tuple(value.shape[axis] for axis in order)
        source = self._held_whole(value)
        name = self.node("Transpose", source.name, perm=list(order))
        self._before[name] = ("transposed", source)
        return Value(name, shape, shape, value.dtype)

    def transposed(self, value: Value) -> Value | None:
        """The matrix that this one is the transpose of."""
        source = self._source(value, how="transposed")
        return source if source and len(source.shape) == 2 else None

    def model(
        self, outputs: Mapping[str, Value], *, name: str, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """The finished model: what the outputs need, and every input.

        Args:
            outputs: by the name they get.
            name: of the graph.
            metadata: of the model.
        """
        for output, value in outputs.items():
            self._nodes.append(helper.make_node("Identity", [self.whole(value)], [output]))
        wanted, nodes = set(outputs), []
        for node in reversed(self._nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                nodes.append(node)
        graph = helper.make_graph(
            nodes[::-1],
            name,
            [self._info(name, value) for name, value in self._inputs.items()],
            [self._info(name, value) for name, value in outputs.items()],
            [numpy_helper.from_array(a, n) for n, a in self._constants.items() if n in wanted],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        helper.set_model_props(model, dict(metadata))
        return model

    def _source(self, value: Value, *, how: str) -> Value | None:
        """What became this value like that."""
        found, source = self._before.get(value.name, ("", value))
        return source if found == how and value.held == value.shape else None

    def _held_whole(self, value: Value) -> Value:
        return Value(self.whole(value), value.shape, value.shape, value.dtype)

    def _batch_size(self) -> str:
        """The batch's size, int64 [1]."""
        for value in self._inputs.values():
            if PerExample(1) in value.shape:
                axis = value.shape.index(PerExample(1))
                return self.node("Shape", value.name, start=axis, end=axis + 1)
        raise ConfigError("no input has an axis that is the batch")

    def _element_type(self, dtype: torch.dtype) -> int:
        if dtype not in _ELEMENT_TYPES:
            raise ConfigError(f"tensors of {dtype} are not exported")
        return _ELEMENT_TYPES[dtype]

    def _info(self, name: str, value: Value) -> onnx.ValueInfoProto:
        shape = [_axis(n) for n in value.shape]
        return helper.make_tensor_value_info(name, self._element_type(value.dtype), shape)


def _axis(size: int | PerExample) -> int | str | None:
    if isinstance(size, PerExample):
        return "batch" if size == PerExample(1) else None
    return size
