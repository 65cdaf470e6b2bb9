"""The int8 form of a network: what ranges and weights of 8 bits make of its layers.

A layer's input is x = s (q - z) with unsigned q of 8 bits, s and z fixed beforehand for the whole
tensor (static quantisation); its weights are w = t[c] v with signed v of 8 bits and a scale t per
output channel. So its product is s t[c] times a sum of whole numbers, which ONNX's MatMulInteger
and ConvInteger add up exactly in 32 bits; bias and everything behind it stay in float32 (Jacob et
al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", arXiv 1712.05877, Eq. 1 to 4, with z = 0 for weights). Spikes are whole numbers already:
with s = 1 and z = 0 only weights are rounded.

Beside the bias, a layer takes "LAYER.weight" int8, "LAYER.weight_scale" [channel], and the scalars
"LAYER.input_scale" and "LAYER.input_zero" (uint8).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedcore.errors import ConfigError
from fedcore.nn.export.graph import Graph, Value
from fedcore.nn.export.tracing import Meta
from fedcore.nn.models.network import Network, Spiking

__all__ = ["INTEGER_PRODUCTS", "int8_network"]


def int8_network(network: Network) -> Network:
    """The same layers on whole numbers.

    Raises:
        ConfigError: the network's neurons quantise weights by themselves.
    """
    if any(isinstance(c, Spiking) and c.neuron.on_bare_synapses for c in network.children()):
        raise ConfigError(
            f"neuron {network.spec.neuron.name!r} rounds its weights by itself; it has no int8 form"
        )
    layers = dict(network.named_children())
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            layers[name] = _Conv(layer)
        elif isinstance(layer, nn.Linear):
            layers[name] = _Dense(layer)
    return Network(network.spec, layers)


class _Dense(nn.Linear):
    """A dense layer of 8-bit weights and inputs."""

    weight_scale: Tensor
    input_scale: Tensor
    input_zero: Tensor

    def __init__(self, like: nn.Linear) -> None:
        bias = like.bias is not None
        super().__init__(like.in_features, like.out_features, bias=bias, device="meta")
        _add_scales(self, like.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, input] -> [batch, output]."""
        total = torch.ops.leakwatt.integer_dense(x, self.weight, self.input_scale, self.input_zero)
        return _rescaled(self, total, shape=(-1,))


class _Conv(nn.Conv2d):
    """A convolution of 8-bit weights and inputs."""

    weight_scale: Tensor
    input_scale: Tensor
    input_zero: Tensor

    def __init__(self, like: nn.Conv2d) -> None:
        super().__init__(
            like.in_channels,
            like.out_channels,
            like.kernel_size,  # type: ignore[arg-type]  # two of them, as torch keeps them
            stride=like.stride,  # type: ignore[arg-type]
            padding=like.padding,  # type: ignore[arg-type]
            bias=like.bias is not None,
            device="meta",
        )
        _add_scales(self, like.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, height, width] -> the same axes."""
        total = torch.ops.leakwatt.integer_conv(
            x,
            self.weight,
            self.input_scale,
            self.input_zero,
            list(self.stride),
            list(self.padding),
        )
        return _rescaled(self, total, shape=(-1, 1, 1))


def _add_scales(layer: _Dense | _Conv, n_outputs: int) -> None:
    def parameter(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
        return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)

    layer.weight = parameter(tuple(layer.weight.shape), torch.int8)
    layer.weight_scale = parameter((n_outputs,), torch.float32)
    layer.input_scale = parameter((), torch.float32)
    layer.input_zero = parameter((), torch.uint8)


def _rescaled(layer: _Dense | _Conv, total: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """Sums of whole numbers in the units of the float network, plus bias."""
    scale = layer.input_scale * layer.weight_scale
    out = total.to(torch.float32) * scale.reshape(shape)
    return out if layer.bias is None else out + layer.bias.reshape(shape)


def _quantised(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Whole numbers q - z in float64, where sums of them are exact."""
    zero = zero.to(torch.float64)
    return (torch.round(x.double() / scale.double()) + zero).clamp(0, 255) - zero


@torch.library.custom_op("leakwatt::integer_dense", mutates_args=())
def _integer_dense(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return F.linear(_quantised(x, scale, zero), weight.double()).to(torch.int32)


@_integer_dense.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32)


@torch.library.custom_op("leakwatt::integer_conv", mutates_args=())
def _integer_conv(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor, stride: list[int], padding: list[int]
) -> Tensor:
    whole = _quantised(x, scale, zero)
    return F.conv2d(whole, weight.double(), stride=stride, padding=padding).to(torch.int32)


@_integer_conv.register_fake
def _(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor, stride: list[int], padding: list[int]
) -> Tensor:
    sizes = [
        (n + 2 * p - k) // s + 1
        for n, k, s, p in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *sizes), dtype=torch.int32)


def _to_integers(graph: Graph, x: Value, scale: Value, zero: Value) -> str:
    return graph.node("QuantizeLinear", graph.whole(x), scale.name, zero.name)


def _dense(graph: Graph, out: Meta, x: Value, weight: Value, scale: Value, zero: Value) -> Value:
    matrix = graph.transpose(weight, (1, 0)).name
    name = graph.node("MatMulInteger", _to_integers(graph, x, scale, zero), matrix, zero.name)
    return graph.result(name, out)


def _conv(
    graph: Graph,
    out: Meta,
    x: Value,
    weight: Value,
    scale: Value,
    zero: Value,
    stride: list[int],
    padding: list[int],
) -> Value:
    whole = _to_integers(graph, x, scale, zero)
    name = graph.node(
        "ConvInteger", whole, weight.name, zero.name, strides=stride, pads=[*padding, *padding]
    )
    return graph.result(name, out)


INTEGER_PRODUCTS: dict[Any, Any] = {
    torch.ops.leakwatt.integer_dense.default: _dense,
    torch.ops.leakwatt.integer_conv.default: _conv,
}
"""What each of the products is in ONNX; padding is filled with the zero, as in `_integer_conv`."""
