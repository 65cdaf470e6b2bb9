"""Torch's elementwise operators in ONNX.

See `fedcore.nn.export.operators.OPERATORS` for what an entry is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fedcore.errors import ConfigError
from fedcore.nn.export.graph import Graph, Value
from fedcore.nn.export.tracing import Meta, PerExample, Shape

__all__ = ["POINTWISE", "Operand", "Operator", "fill", "spread"]

Operand = Value | torch.Tensor | float | PerExample
"""An argument: a tensor of the graph, a constant one, or a number."""

Operator = Callable[..., Any]
"""(graph, what torch says of the result, arguments...) -> a `Value`, or several."""

aten = torch.ops.aten


def spread(value: Value, out: Meta) -> Value:
    """The same value, broadcast."""
    return replace(value, shape=out.shape)


def fill(graph: Graph, out: Meta, number: float) -> Value:
    """One number everywhere."""
    return replace(graph.number(number, out.dtype), shape=out.shape)


def _node(graph: Graph, op: str, out: Meta, *operands: Value) -> Value:
    """A node over what is held; the result is broadcast only when it has to be."""
    name = graph.node(op, *(operand.name for operand in operands))
    return Value(name, out.shape, _broadcast(*(x.held for x in operands)), out.dtype)


def _broadcast(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*padded, strict=True))


def _arithmetic(op: str, graph: Graph, out: Meta, *operands: Operand) -> Value:
    return _node(graph, op, out, *(graph.value(x, out.dtype) for x in operands))


def _comparison(op: str, graph: Graph, out: Meta, a: Value | torch.Tensor, b: Operand) -> Value:
    dtype = a.dtype
    if isinstance(b, Value | torch.Tensor):
        dtype = torch.promote_types(dtype, b.dtype)
    elif isinstance(b, float) and not dtype.is_floating_point:
        dtype = torch.float32
    return _node(graph, op, out, graph.value(a, dtype), graph.value(b, dtype))


def _not_equal(graph: Graph, out: Meta, a: Value | torch.Tensor, b: Operand) -> Value:
    return _node(graph, "Not", out, _comparison("Equal", graph, out, a, b))


def _add(graph: Graph, out: Meta, a: Operand, b: Operand, *, alpha: float = 1) -> Value:
    x, y = graph.value(a, out.dtype), _mul(graph, _meta(b, out), b, alpha)
    if y.fill == 0:
        return spread(x, out)
    if x.fill == 0:
        return spread(y, out)
    return _short_slope(graph, out, x, y) or _node(graph, "Add", out, x, y)


def _short_slope(graph: Graph, out: Meta, a: Value, b: Value) -> Value | None:
    """Say g / d^2, if that is the sum of a and b.

    Autograd makes a = g / d and b = -g x/d/d k sign(x) of the slope of x / d with d = 1 + k |x|,
    the surrogate "fast_sigmoid". Equal nodes have equal names, so that b is compared with its like.
    """
    quotient = graph.made(a.name, by="Div")
    total = graph.made(quotient[1], by="Add") if quotient else ()
    product = graph.made(total[0], by="Mul") if total else ()
    size = graph.made(product[0], by="Abs") if product else ()
    if not size or total[1] != graph.number(1, out.dtype).name:
        return None
    (g, d), k, (x,) = quotient, product[1], size
    long = graph.node("Neg", g)
    for factor in (graph.node("Div", graph.node("Div", x, d), d), k):
        long = graph.node("Mul", long, factor)
    sign = _sign(graph, out, replace(a, name=x))
    if b.name != graph.node("Mul", long, sign.name):
        return None
    return spread(replace(a, name=graph.node("Div", g, graph.node("Mul", d, d))), out)


def _sub(graph: Graph, out: Meta, a: Operand, b: Operand, *, alpha: float = 1) -> Value:
    x, y = graph.value(a, out.dtype), _mul(graph, _meta(b, out), b, alpha)
    if x == y:  # a spike's s - s.detach() is only there for its gradient
        return fill(graph, out, 0.0)
    return spread(x, out) if y.fill == 0 else _node(graph, "Sub", out, x, y)


def _reverse_sub(graph: Graph, out: Meta, a: Operand, b: Operand, *, alpha: float = 1) -> Value:
    return _sub(graph, out, b, a, alpha=alpha)


def _mul(graph: Graph, out: Meta, a: Operand, b: Operand) -> Value:
    x, y = graph.value(a, out.dtype), graph.value(b, out.dtype)
    if x.fill is not None and y.fill is not None:
        return fill(graph, out, x.fill * y.fill)
    if y.fill == 1:
        return spread(x, out)
    return spread(y, out) if x.fill == 1 else _node(graph, "Mul", out, x, y)


def _meta(operand: Operand, out: Meta) -> Meta:
    """Of an operand in the dtype of the result."""
    shape = operand.shape if isinstance(operand, Value | torch.Tensor) else ()
    return Meta(tuple(shape), out.dtype)


def _power(graph: Graph, out: Meta, x: Operand, exponent: Operand) -> Value:
    if isinstance(exponent, int | float) and exponent in (1, 2):
        return _mul(graph, out, x, x if exponent == 2 else 1)
    return _arithmetic("Pow", graph, out, x, exponent)


def _sign(graph: Graph, out: Meta, x: Operand) -> Value:
    """Clipped after a large factor, which takes a fifth of the time of onnxruntime's Sign."""
    if not out.dtype.is_floating_point:
        return _arithmetic("Sign", graph, out, x)
    largest = torch.finfo(out.dtype).max / 4  # makes more than 1 of every normal number
    scaled = _mul(graph, out, x, largest)
    return _clamp(graph, out, scaled, -1, 1)


def _clamp(
    graph: Graph, out: Meta, x: Operand, low: float | None = None, high: float | None = None
) -> Value:
    value = graph.value(x, out.dtype)
    bounds = ["" if n is None else graph.number(n, out.dtype).name for n in (low, high)]
    return replace(value, name=graph.node("Clip", value.name, *bounds), fill=None)


def _where(graph: Graph, out: Meta, condition: Operand, a: Operand, b: Operand) -> Value:
    choices = (graph.value(x, out.dtype) for x in (a, b))
    return _node(graph, "Where", out, graph.value(condition, torch.bool), *choices)


def _bitwise(op: str, graph: Graph, out: Meta, *operands: Operand) -> Value:
    if out.dtype != torch.bool:
        raise ConfigError("the bits of whole numbers have no ONNX translation")
    return _arithmetic(op, graph, out, *operands)


def _trunc(graph: Graph, out: Meta, x: Operand) -> Value:
    down, up = (_arithmetic(op, graph, out, x) for op in ("Floor", "Ceil"))
    below = _comparison("Less", graph, Meta(out.shape, torch.bool), graph.value(x, out.dtype), 0)
    return _where(graph, out, below, up, down)


def _log1p(graph: Graph, out: Meta, x: Operand) -> Value:
    return _arithmetic("Log", graph, out, _add(graph, out, x, 1))


def _expm1(graph: Graph, out: Meta, x: Operand) -> Value:
    return _sub(graph, out, _arithmetic("Exp", graph, out, x), 1)


def _rsqrt(graph: Graph, out: Meta, x: Operand) -> Value:
    return _arithmetic("Reciprocal", graph, out, _arithmetic("Sqrt", graph, out, x))


def _same(graph: Graph, out: Meta, x: Operand, **_: Any) -> Value:
    return graph.value(x, out.dtype)


def _filled(graph: Graph, out: Meta, _like: Any, number: float, **_: Any) -> Value:
    return fill(graph, out, number)


_ARITHMETIC = {
    "Abs": (aten.abs.default,),
    "And": (aten.logical_and.default, aten.logical_and_.default),
    "Atan": (aten.atan.default,),
    "Ceil": (aten.ceil.default,),
    "Cos": (aten.cos.default,),
    "Div": (aten.div.Tensor, aten.div.Scalar),
    "Erf": (aten.erf.default,),
    "Exp": (aten.exp.default,),
    "Floor": (aten.floor.default,),
    "Log": (aten.log.default,),
    "Max": (aten.maximum.default,),
    "Min": (aten.minimum.default,),
    "Neg": (aten.neg.default,),
    "Not": (aten.logical_not.default,),
    "Or": (aten.logical_or.default,),
    "Pow": (aten.pow.Scalar, aten.pow.Tensor_Tensor),
    "Reciprocal": (aten.reciprocal.default,),
    "Relu": (aten.relu.default,),
    "Round": (aten.round.default,),
    "Sigmoid": (aten.sigmoid.default,),
    "Sin": (aten.sin.default,),
    "Sqrt": (aten.sqrt.default,),
    "Tanh": (aten.tanh.default,),
}

_COMPARISONS = {
    "Equal": (aten.eq.Scalar, aten.eq.Tensor),
    "Greater": (aten.gt.Scalar, aten.gt.Tensor),
    "GreaterOrEqual": (aten.ge.Scalar, aten.ge.Tensor),
    "Less": (aten.lt.Scalar, aten.lt.Tensor),
    "LessOrEqual": (aten.le.Scalar, aten.le.Tensor),
}

_BITWISE = {
    "And": (aten.bitwise_and.Tensor,),
    "Not": (aten.bitwise_not.default,),
    "Or": (aten.bitwise_or.Tensor,),
}

POINTWISE: dict[Any, Operator] = {
    **{each: partial(_arithmetic, op) for op, those in _ARITHMETIC.items() for each in those},
    **{each: partial(_comparison, op) for op, those in _COMPARISONS.items() for each in those},
    **{each: partial(_bitwise, op) for op, those in _BITWISE.items() for each in those},
    aten._to_copy.default: _same,
    aten.add.Scalar: _add,
    aten.add.Tensor: _add,
    aten.alias.default: _same,
    aten.clamp.default: _clamp,
    aten.clone.default: _same,
    aten.detach.default: _same,
    aten.expm1.default: _expm1,
    aten.full.default: _filled,
    aten.full_like.default: _filled,
    aten.log1p.default: _log1p,
    aten.mul.Scalar: _mul,
    aten.mul.Tensor: _mul,
    aten.ne.Scalar: _not_equal,
    aten.ne.Tensor: _not_equal,
    aten.pow.Tensor_Scalar: _power,
    aten.rsqrt.default: _rsqrt,
    aten.rsub.Scalar: _reverse_sub,
    aten.sign.default: _sign,
    aten.sub.Scalar: _sub,
    aten.sub.Tensor: _sub,
    aten.trunc.default: _trunc,
    aten.where.self: _where,
}
"""By torch's operator."""
