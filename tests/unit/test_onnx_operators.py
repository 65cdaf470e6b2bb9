"""Torch's operators in ONNX, one by one, against torch, at kinks and zeros, too."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import torch.nn.functional as F  # noqa: E402

from benchmarks.edge_parity import session  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.nn.arrays import to_array  # noqa: E402
from fedcore.nn.export import export_training  # noqa: E402
from fedcore.nn.export.tracing import trace  # noqa: E402
from fedcore.nn.export.translation import translate  # noqa: E402
from fedcore.plan import ModelSpec  # noqa: E402

pytestmark = pytest.mark.torch

AROUND_ZERO = (-2.5, -1.0, -0.4, -0.0, 0.0, 0.4, 1.0, 2.5)

POINTWISE = {
    "sign": lambda x: x.sign(),
    "trunc": lambda x: x.trunc(),
    "round": lambda x: x.round(),
    "floor": lambda x: x.floor() + x.ceil(),
    "expm1": lambda x: x.expm1(),
    "log1p": lambda x: x.abs().log1p(),
    "rsqrt": lambda x: (x.abs() + 1).rsqrt(),
    "clamp": lambda x: x.clamp(-1, 1) + x.clamp(min=0.4) + x.clamp(max=0.3),
    "powers": lambda x: x**1 + x**2 + x**3 + 2**x,
    "reverse": lambda x: 1 - x,
    "where": lambda x: torch.where(((x >= 0) & (x < 2)) | ~(x > -2), x, x - 1),
    "comparisons": lambda x: (x > 0).to(x.dtype) + 2 * (x <= 0.4) + 4 * (x != 1) + 8 * (x == 1),
    "extremes": lambda x: torch.maximum(x, -x) + torch.minimum(x, 2 * x),
    "smooth": lambda x: x.sigmoid() + x.tanh() + F.softplus(x) + F.silu(x) + x.sin() + x.cos(),
    "quotients": lambda x: x / (1 + 5 * x.abs()) + x / (2 + 3 * x.abs()) + x / (1 + x.abs() * x),
    "itself": lambda x: (x - x) + (x + torch.zeros_like(x)) * 1,
    "whole": lambda x: (x * 3).to(torch.int64).to(x.dtype),
}

SHAPES = {
    "select": lambda x: x[:, 1] + x[:, -1],
    "slice": lambda x: x.detach()[:, ::2].sum(1) + x[:, -1:].sum(1) + x[:, 1:3].mean(1),
    "concatenate": lambda x: torch.cat([x, x[:, :1]], 1).flatten(1),
    "stack": lambda x: torch.stack([x.amax(1), x.amin(1)]).transpose(0, 1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=3.0),
    "halves": lambda x: torch.mul(*x.split([1, 3], 1)),
    "wide": lambda x: x[:, :1].expand(-1, 4, -1).reshape(len(x), -1),
    "spread": lambda x: x.sum(2).unsqueeze(2).expand(-1, -1, 3).reshape(len(x), -1),
    "product": lambda x: x.flatten(1) @ torch.ones(12, 2, dtype=x.dtype),
    "turned": lambda x: (x.flatten(1).T @ x.flatten(1)).T,
    "shared": lambda x: x.sum() / len(x) + torch.full((len(x),), 2.0, dtype=x.dtype),
    "shifted": lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1),
}


def assert_same(function, example) -> None:
    def gradient_too(given: dict) -> dict:
        x = given["x"].detach().requires_grad_()
        y = function(x)
        slope = torch.autograd.grad(y.square().sum(), x) if y.requires_grad else ()
        return {"y": y.detach(), **dict(zip(["dx"], slope, strict=False))}

    running = session(translate(trace(gradient_too, example), name="test", metadata={}))
    given = example(5)
    found = running.run(None, {"x": to_array(given["x"])})
    for a, b in zip(found, gradient_too(given).values(), strict=True):
        np.testing.assert_allclose(a, to_array(b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", POINTWISE)
def test_values_and_slopes(name: str) -> None:
    def example(n: int) -> dict:
        return {"x": torch.tensor(AROUND_ZERO, dtype=torch.float64).repeat(n, 1)}

    assert_same(POINTWISE[name], example)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_sums(name: str) -> None:
    def example(n: int) -> dict:
        draw = torch.Generator().manual_seed(n)
        return {"x": torch.randn(n, 4, 3, generator=draw, dtype=torch.float64)}

    assert_same(SHAPES[name], example)


@pytest.mark.parametrize("power", [0.5, 2])
def test_a_number_that_is_no_multiple_of_the_batch_is_refused(power: float) -> None:
    def odd(given: dict) -> dict:
        return {"y": given["x"] * len(given["x"]) ** power}

    with pytest.raises(ConfigError, match="depends on the batch size and is no multiple of it"):
        trace(odd, lambda n: {"x": torch.zeros(n, 2)})


def test_nothing_is_computed_twice_and_the_usual_slope_is_short() -> None:
    spec = ModelSpec(name="convnet", spiking=True, options={"channels": [4, 4]})
    model = onnx.load_model_from_string(export_training(spec, n_steps=3))
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["Gather"] == 3, "patches of both layers' inputs, and of the second's slope"
    assert kinds["Clip"] == kinds["Sign"] == 0, "the slope of |x| was not simplified"
    assert kinds["Expand"] <= 2, "broadcast before it must"
    made = [(n.op_type, tuple(n.input), str(n.attribute)) for n in model.graph.node]
    assert len(made) == len(set(made))
