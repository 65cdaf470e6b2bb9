"""Torch's operators on shapes, sums and matrices in ONNX, and the table of all.

A translation takes the graph, what torch says of the result, and the operator's arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from fedcore.errors import ConfigError
from fedcore.nn.export.convolution import CONVOLUTIONS
from fedcore.nn.export.graph import Graph, Value
from fedcore.nn.export.pointwise import POINTWISE, Operand, Operator, spread
from fedcore.nn.export.pooling import POOLING
from fedcore.nn.export.tracing import Meta

__all__ = ["OPERATORS"]

aten = torch.ops.aten

_TO_THE_END = 2**63 - 1


def _reshape(graph: Graph, out: Meta, x: Operand, *_: Any) -> Value:
    return graph.reshape(graph.value(x, out.dtype), out.shape)


def _expand(graph: Graph, out: Meta, x: Operand, *_: Any, **__: Any) -> Value:
    return spread(graph.value(x, out.dtype), out)


def _permute(graph: Graph, out: Meta, x: Operand, order: Sequence[int]) -> Value:
    return graph.transpose(graph.value(x, out.dtype), [axis % len(order) for axis in order])


def _slice(
    graph: Graph,
    out: Meta,
    x: Operand,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    value = graph.value(x, out.dtype)
    if value.shape == out.shape:
        return value
    if value.fill is not None:
        return spread(value, out)
    first, size = start or 0, value.shape[axis]
    if out.shape[axis] == 1 and isinstance(size, int):  # one node for all steps of time
        split = {"axis": axis % len(out.shape), "num_outputs": size}
        parts = graph.nodes("Split", graph.whole(value), n_outputs=size, **split)
        return graph.result(parts[first], out)
    bounds = ([first], [_TO_THE_END if end is None else end], [axis], [step])
    return graph.result(graph.node("Slice", graph.whole(value), *map(graph.integers, bounds)), out)


def _slice_scatter(
    graph: Graph,
    out: Meta,
    x: Operand,
    part: Operand,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """The tensor with another part in place of its own."""
    value, new = graph.value(x, out.dtype), graph.value(part, out.dtype)
    axis %= len(out.shape)
    size, width = out.shape[axis], new.shape[axis]
    if step != 1 or not isinstance(size, int) or not isinstance(width, int):
        raise ConfigError("writing into some places of an axis has no ONNX translation")
    first = (start or 0) % size
    pieces = []
    for begin, stop in ((0, first), (first + width, size)):
        kept = Meta((*out.shape[:axis], stop - begin, *out.shape[axis + 1 :]), out.dtype)
        pieces.append(_slice(graph, kept, value, axis, begin, stop) if stop > begin else None)
    inside = (pieces[0], new, pieces[1])
    return _concatenate(graph, out, [piece for piece in inside if piece is not None], axis)


def _select(graph: Graph, out: Meta, x: Operand, axis: int, index: int) -> Value:
    value = graph.value(x, out.dtype)
    axis, size = axis % len(value.shape), value.shape[axis]
    first = index + size if index < 0 and isinstance(size, int) else index
    kept = Meta((*value.shape[:axis], 1, *value.shape[axis + 1 :]), out.dtype)
    return graph.reshape(_slice(graph, kept, value, axis, first, first + 1), out.shape)


def _split(
    graph: Graph, _: Meta | None, x: Value, sizes: Sequence[int], axis: int = 0
) -> list[Value]:
    axis %= len(x.shape)
    names = graph.nodes(
        "Split", graph.whole(x), graph.integers(sizes), n_outputs=len(sizes), axis=axis
    )
    metas = [Meta((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype) for n in sizes]
    return [graph.result(name, meta) for name, meta in zip(names, metas, strict=True)]


def _concatenate(graph: Graph, out: Meta, parts: Sequence[Operand], axis: int = 0) -> Value:
    names = [graph.whole(graph.value(part, out.dtype)) for part in parts]
    return graph.result(graph.node("Concat", *names, axis=axis % len(out.shape)), out)


def _pad(graph: Graph, out: Meta, x: Operand, widths: Sequence[int], number: float = 0) -> Value:
    rest = [0] * (len(out.shape) - len(widths) // 2)
    sides = [*rest, *widths[-2::-2], *rest, *widths[::-2]]  # torch begins with the last axis
    names = graph.whole(graph.value(x, out.dtype)), graph.integers(sides)
    return graph.result(graph.node("Pad", *names, graph.number(number, out.dtype).name), out)


def _reduce(
    op: str,
    graph: Graph,
    out: Meta,
    x: Operand,
    axes: Sequence[int] | None = None,
    keepdim: bool = False,
    **_: Any,
) -> Value:
    value = graph.value(x, out.dtype)
    along = [axis % len(value.shape) for axis in axes or range(len(value.shape))]
    names = graph.whole(value), graph.integers(along)
    return graph.result(graph.node(op, *names, keepdims=int(keepdim)), out)


def _log_softmax(graph: Graph, out: Meta, x: Operand, axis: int, _half: bool) -> Value:
    value = graph.value(x, out.dtype)
    return graph.result(graph.node("LogSoftmax", graph.whole(value), axis=axis), out)


def _product(graph: Graph, out: Meta, a: Operand, b: Operand, *bias: Value) -> Value:
    """Of matrices that are read as they lie, transposed or not."""
    values = [graph.value(x, out.dtype) for x in (a, b)]
    turned = [graph.transposed(value) for value in values]
    names = [graph.whole(t or v) for t, v in zip(turned, values, strict=True)]
    flags = {key: int(t is not None) for key, t in zip(("transA", "transB"), turned, strict=True)}
    names.extend(graph.whole(value) for value in bias)
    return graph.result(graph.node("Gemm", *names, **flags), out)


def _affine(graph: Graph, out: Meta, bias: Operand, a: Operand, b: Operand) -> Value:
    value = graph.value(bias, out.dtype)
    return _product(graph, out, a, b, value)


def _products(graph: Graph, out: Meta, a: Operand, b: Operand) -> Value:
    """Of matrices in a batch."""
    names = (graph.whole(graph.value(x, out.dtype)) for x in (a, b))
    return graph.result(graph.node("MatMul", *names), out)


_REDUCTIONS = {
    "ReduceMax": (aten.amax.default,),
    "ReduceMean": (aten.mean.default, aten.mean.dim),
    "ReduceMin": (aten.amin.default,),
    "ReduceSum": (aten.sum.default, aten.sum.dim_IntList),
}

OPERATORS: dict[Any, Operator] = {
    **POINTWISE,
    **CONVOLUTIONS,
    **POOLING,
    **{each: partial(_reduce, op) for op, those in _REDUCTIONS.items() for each in those},
    aten._log_softmax.default: _log_softmax,
    aten._unsafe_view.default: _reshape,
    aten.addmm.default: _affine,
    aten.bmm.default: _products,
    aten.cat.default: _concatenate,
    aten.constant_pad_nd.default: _pad,
    aten.expand.default: _expand,
    aten.mm.default: _product,
    aten.permute.default: _permute,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: _slice_scatter,
    aten.split_with_sizes.default: _split,
    aten.squeeze.dims: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.view.default: _reshape,
}
"""By torch's operator."""
