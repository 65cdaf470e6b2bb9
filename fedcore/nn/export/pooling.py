"""Average pooling in ONNX, and its backward pass, in float64, too."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from fedcore.errors import ConfigError
from fedcore.nn.export.graph import Graph, Value
from fedcore.nn.export.pointwise import Operator
from fedcore.nn.export.tracing import Meta, fixed

__all__ = ["POOLING"]

aten = torch.ops.aten


def _pool(
    graph: Graph,
    out: Meta,
    x: Value,
    kernel: Sequence[int],
    strides: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    *_: Any,
) -> Value:
    """The mean of every block; rows and columns that fill no block are dropped."""
    if list(strides or kernel) != list(kernel) or any(padding) or ceil_mode:
        raise ConfigError("pooling of blocks that overlap or stick out has no ONNX translation")
    height, width = fixed(out.shape[2:])
    sizes = (height * kernel[0], width * kernel[1])
    if x.shape[2:] != sizes:
        bounds = ([0, 0], sizes, [2, 3])
        name = graph.node("Slice", graph.whole(x), *map(graph.integers, bounds))
        x = graph.result(name, Meta((*x.shape[:2], *sizes), x.dtype))
    blocks = graph.reshape(x, (*x.shape[:2], height, kernel[0], width, kernel[1]))
    name = graph.node("ReduceMean", blocks.name, graph.integers([3, 5]), keepdims=0)
    return graph.result(name, out)


def _pool_backward(
    graph: Graph, out: Meta, slope: Value, _x: Value, kernel: Sequence[int], *_: Any
) -> Value:
    """Every pixel of a block gets the block's slope, divided by their number."""
    lead, (height, width) = slope.shape[:2], fixed(slope.shape[2:])
    share = torch.full((kernel[0], 1, kernel[1]), 1 / prod(kernel), dtype=slope.dtype)
    blocks = graph.reshape(slope, (*lead, height, 1, width, 1))
    name = graph.node("Mul", blocks.name, graph.tensor(share).name)
    shape = (*lead, height, kernel[0], width, kernel[1])
    pixels = graph.reshape(
        graph.result(name, Meta(shape, slope.dtype)),
        (*lead, height * kernel[0], width * kernel[1]),
    )
    ends = [n - m for n, m in zip(fixed(out.shape[2:]), fixed(pixels.shape[2:]), strict=True)]
    if not any(ends):
        return pixels
    name = graph.node("Pad", pixels.name, graph.integers([0, 0, 0, 0, 0, 0, *ends]))
    return graph.result(name, out)


POOLING: dict[Any, Operator] = {
    aten.avg_pool2d.default: _pool,
    aten.avg_pool2d_backward.default: _pool_backward,
}
"""By torch's operator, see `fedcore.nn.export.operators.OPERATORS`."""
