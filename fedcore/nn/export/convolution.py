"""Convolutions in ONNX as products of matrices, and their backward passes.

A narrow convolution is a matrix of weights times a matrix of patches, and the gradient of its
weights takes the same patches once more. With the examples on the last axis, patches are made of
long runs of memory that are copied as they lie. Against onnxruntime's own convolutions of few
channels this takes about half the time, and it works in float64, where those do not. Where the
patches would take too much memory, onnxruntime's convolutions do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from fedcore.errors import ConfigError
from fedcore.nn.export.graph import Graph, Value
from fedcore.nn.export.pointwise import Operator
from fedcore.nn.export.tracing import Meta, Shape, fixed, times

__all__ = ["CONVOLUTIONS", "MAX_PATCH_VALUES"]

MAX_PATCH_VALUES = 1 << 16  # per example and step: 256 kB in float32

aten = torch.ops.aten


class _Axis(NamedTuple):
    """A convolution along one axis: window w covers [stride * w, stride * w + kernel).

    Attributes:
        kernel: width of a window.
        stride: from one window to the next.
        before: zeros in front of the input.
        after: zeros behind it, as far as windows reach.
        windows: their number.
    """

    kernel: int
    stride: int
    before: int
    after: int
    windows: int

    def covers(self) -> np.ndarray:
        """Where the windows lie in the padded input, [kernel, window]."""
        return np.arange(self.kernel)[:, None] + self.stride * np.arange(self.windows)


def _convolution(
    graph: Graph,
    out: Meta,
    x: Value,
    weight: Value,
    bias: Value | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
) -> Value:
    _check(dilations, transposed=transposed, groups=groups)
    axes = _axes(x, weight, out.shape, strides, padding)
    if _is_wide(weight, axes):
        inputs = [graph.whole(value) for value in (x, weight, bias) if value is not None]
        return graph.result(
            graph.node("Conv", *inputs, strides=strides, pads=[*padding, *padding]), out
        )
    patches = _patches(graph, _planes(graph, x), axes)
    n_out, *window = fixed(weight.shape)
    names = [graph.reshape(weight, (n_out, prod(window))).name, patches.name]
    if bias is not None:
        names.append(graph.reshape(bias, (n_out, 1)).name)
    return _images(graph, graph.node("Gemm", *names), out)


def _convolution_backward(
    graph: Graph,
    _: Meta | None,
    slope: Value,
    x: Value,
    weight: Value,
    _bias_sizes: Any,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> list[Value | None]:
    _check(dilations, transposed=transposed, groups=groups)
    axes = _axes(x, weight, slope.shape, strides, padding)
    wide = _is_wide(weight, axes)
    of_input = _wide_input_slope if wide else _input_slope
    of_weight = _wide_weight_slope if wide else _weight_slope
    return [
        of_input(graph, slope, x, weight, axes) if wanted[0] else None,
        of_weight(graph, slope, x, weight, axes) if wanted[1] else None,
        _bias_slope(graph, slope) if wanted[2] else None,
    ]


def _bias_slope(graph: Graph, slope: Value) -> Value:
    rows = _rows(graph, slope)
    name = graph.node("ReduceSum", rows.name, graph.integers([1]), keepdims=0)
    return graph.result(name, Meta(rows.shape[:1], rows.dtype))


def _weight_slope(
    graph: Graph, slope: Value, x: Value, weight: Value, axes: Sequence[_Axis]
) -> Value:
    patches, rows = _patches(graph, _planes(graph, x), axes), _rows(graph, slope)
    name = graph.node("Gemm", patches.name, rows.name, transB=1)
    flat = graph.result(name, Meta((patches.shape[0], rows.shape[0]), weight.dtype))
    # Turned as four axes, or onnxruntime would turn the product itself, at twice its cost.
    return graph.transpose(graph.reshape(flat, (*weight.shape[1:], weight.shape[0])), [3, 0, 1, 2])


def _input_slope(
    graph: Graph, slope: Value, x: Value, weight: Value, axes: Sequence[_Axis]
) -> Value:
    """All pixels of one phase of the stride are channels of one dense convolution of the slope.

    Padded pixel stride * q + phase meets tap stride * a + phase of window q - a.
    """
    sizes, (_, n_in, *_) = fixed(x.shape[2:]), fixed(weight.shape)
    taps = [-(-axis.kernel // axis.stride) for axis in axes]
    first = [axis.before // axis.stride for axis in axes]
    last = [(a.before + n - 1) // a.stride for a, n in zip(axes, sizes, strict=True)]
    dense = [
        _Axis(n, 1, n - 1 - q, r - axis.windows + 1, r - q + 1)
        for n, q, r, axis in zip(taps, first, last, axes, strict=True)
    ]
    patches = _patches(graph, _planes(graph, slope), dense)
    matrix = _by_phase(graph, weight, axes, taps)
    name = graph.node("Gemm", matrix.name, patches.name)
    flat = graph.result(name, Meta((matrix.shape[0], patches.shape[1]), x.dtype))
    counts, phases = [axis.windows for axis in dense], [axis.stride for axis in axes]
    n_examples = slope.shape[0]
    apart = graph.reshape(flat, (n_in, *phases, *counts, n_examples))
    together = graph.reshape(
        graph.transpose(apart, [0, 3, 1, 4, 2, 5]),
        (n_in, *(n * m for n, m in zip(counts, phases, strict=True)), n_examples),
    )
    starts = [a.before - q * a.stride for a, q in zip(axes, first, strict=True)]
    return graph.transpose(_crop(graph, together, starts, sizes), [3, 0, 1, 2])


def _by_phase(graph: Graph, weight: Value, axes: Sequence[_Axis], taps: Sequence[int]) -> Value:
    """Weights as [input channel * phases, output channel * taps], the last tap first."""
    n_out, n_in, *kernel = fixed(weight.shape)
    (down, across), (tall, broad) = (axis.stride for axis in axes), taps
    ends = [tall * down - kernel[0], broad * across - kernel[1]]
    padded = _pad(graph, weight, [0, 0, 0, 0, 0, 0, *ends])
    split = graph.reshape(padded, (n_out, n_in, tall, down, broad, across))
    bounds = ([-1, -1], [-(2**31), -(2**31)], [2, 4], [-1, -1])
    name = graph.node("Slice", split.name, *map(graph.integers, bounds))
    turned = graph.result(name, Meta(split.shape, split.dtype))
    matrix = (n_in * down * across, n_out * tall * broad)
    return graph.reshape(graph.transpose(turned, [1, 3, 5, 0, 2, 4]), matrix)


def _wide_weight_slope(
    graph: Graph, slope: Value, x: Value, weight: Value, axes: Sequence[_Axis]
) -> Value:
    """The input, convolved with the slope: examples and channels change places."""
    image, kernel = (graph.transpose(value, [1, 0, 2, 3]) for value in (x, slope))
    name = graph.node(
        "Conv",
        image.name,
        kernel.name,
        dilations=[axis.stride for axis in axes],
        pads=[*(axis.before for axis in axes), *(axis.after for axis in axes)],
    )
    shape = (weight.shape[1], weight.shape[0], *weight.shape[2:])
    return graph.transpose(graph.result(name, Meta(shape, weight.dtype)), [1, 0, 2, 3])


def _wide_input_slope(
    graph: Graph, slope: Value, x: Value, weight: Value, axes: Sequence[_Axis]
) -> Value:
    name = graph.node(
        "ConvTranspose",
        graph.whole(slope),
        graph.whole(weight),
        strides=[axis.stride for axis in axes],
        pads=[axis.before for axis in axes] * 2,
        output_padding=[axis.before - axis.after for axis in axes],
    )
    return graph.result(name, Meta(x.shape, x.dtype))


def _check(dilations: Sequence[int], *, transposed: bool, groups: int) -> None:
    if transposed or groups != 1 or set(dilations) != {1}:
        raise ConfigError("a transposed, dilated or grouped convolution has no ONNX translation")


def _axes(
    x: Value, weight: Value, out: Shape, strides: Sequence[int], padding: Sequence[int]
) -> list[_Axis]:
    sizes = (fixed(shape[2:]) for shape in (x.shape, weight.shape, out))
    return [
        _Axis(k, s, p, s * (m - 1) + k - p - n, m)
        for n, k, m, s, p in zip(*sizes, strides, padding, strict=True)
    ]


def _is_wide(weight: Value, axes: Sequence[_Axis]) -> bool:
    return prod(fixed(weight.shape[1:])) * prod(a.windows for a in axes) > MAX_PATCH_VALUES


def _planes(graph: Graph, images: Value) -> Value:
    """[example, channel, y, x] -> [channel, y, x, example]."""
    return graph.transpose(images, [1, 2, 3, 0])


def _rows(graph: Graph, images: Value) -> Value:
    """[example, channel, y, x] -> [channel, y * x * example]."""
    planes = _planes(graph, images)
    n_pixels = prod(fixed(planes.shape[1:3]))
    return graph.reshape(planes, (planes.shape[0], times(planes.shape[3], n_pixels)))


def _images(graph: Graph, rows: str, out: Meta) -> Value:
    """The way back from rows."""
    n_examples, n_channels, *sizes = out.shape
    flat = (n_channels, times(n_examples, prod(fixed(tuple(sizes)))))
    planes = graph.reshape(
        graph.result(rows, Meta(flat, out.dtype)), (n_channels, *sizes, n_examples)
    )
    return graph.transpose(planes, [3, 0, 1, 2])


def _patches(graph: Graph, planes: Value, axes: Sequence[_Axis]) -> Value:
    """[channel, y, x, example] -> [channel * y * x of a kernel, y * x of windows * example]."""
    down, across = axes
    sides = [0, down.before, across.before, 0, 0, down.after, across.after, 0]
    padded = _pad(graph, planes, sides)
    n_channels, height, width = fixed(padded.shape[:3])
    n_examples = planes.shape[3]
    pixels = graph.reshape(padded, (n_channels, height * width, n_examples))
    where = down.covers()[:, None, :, None] * width + across.covers()[None, :, None, :]
    index = graph.constant(where.reshape(-1).astype(np.int32))
    name = graph.node("Gather", pixels.name, index, axis=1)
    runs = graph.result(name, Meta((n_channels, where.size, n_examples), planes.dtype))
    matrix = (n_channels * down.kernel * across.kernel, down.windows * across.windows)
    return graph.reshape(runs, (matrix[0], times(n_examples, matrix[1])))


def _pad(graph: Graph, x: Value, sides: Sequence[int]) -> Value:
    """Zeros before the axes, then behind them; those that grow with the batch get none."""
    if not any(sides):
        return x
    each = zip(x.shape, sides, sides[len(x.shape) :], strict=False)
    shape = tuple(n + a + b if isinstance(n, int) else n for n, a, b in each)
    name = graph.node("Pad", graph.whole(x), graph.integers(sides))
    return graph.result(name, Meta(shape, x.dtype))


def _crop(graph: Graph, planes: Value, starts: Sequence[int], sizes: Sequence[int]) -> Value:
    """Pixels [start, start + size) of either axis."""
    shape = (planes.shape[0], *sizes, planes.shape[3])
    if planes.shape == shape:
        return planes
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    name = graph.node("Slice", planes.name, *map(graph.integers, (starts, ends, [1, 2])))
    return graph.result(name, Meta(shape, planes.dtype))


CONVOLUTIONS: dict[Any, Operator] = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
}
"""By torch's operator, see `fedcore.nn.export.operators.OPERATORS`."""
