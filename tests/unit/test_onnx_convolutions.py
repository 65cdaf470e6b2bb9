"""Convolutions and pooling of any geometry in ONNX, forward and backward, against torch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import torch.nn.functional as F  # noqa: E402

from benchmarks.edge_parity import session  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.nn.arrays import to_array, to_arrays  # noqa: E402
from fedcore.nn.export import convolution  # noqa: E402
from fedcore.nn.export.tracing import trace  # noqa: E402
from fedcore.nn.export.translation import translate  # noqa: E402

pytestmark = pytest.mark.torch

GEOMETRIES = [  # height, width, kernel, stride, padding
    (7, 7, 5, 2, 2),
    (8, 6, 5, 2, 2),
    (8, 8, 3, 1, 1),
    (9, 7, 3, 3, 0),
    (6, 6, 1, 1, 0),
    (7, 8, 2, 2, 1),
    (10, 11, 4, 3, 1),
    (5, 5, 5, 1, 4),
]


def tensors(height: int, width: int, kernel: int, *, n: int, dtype: torch.dtype) -> dict:
    draw = torch.Generator().manual_seed(3)
    return {
        "x": torch.randn(n, 3, height, width, generator=draw).to(dtype),
        "weight": torch.randn(2, 3, kernel, kernel, generator=draw).to(dtype),
        "bias": torch.randn(2, generator=draw).to(dtype),
    }


def slopes(result, *leaves):
    """Of a sum in which no two places count the same."""
    places = torch.arange(result[0].numel()).reshape(result[0].shape).to(result.dtype)
    return torch.autograd.grad((result * (1 + places)).sum(), leaves)


def convolve(stride: int, padding: int):
    def of(given: dict) -> dict:
        leaves = [tensor.detach().requires_grad_() for tensor in given.values()]
        y = F.conv2d(*leaves, stride=stride, padding=padding)
        return {"y": y.detach(), **dict(zip(("dx", "dw", "db"), slopes(y, *leaves), strict=True))}

    return of


def assert_same(function, given: dict, example, tolerance: float) -> None:
    graph = session(translate(trace(function, example), name="test", metadata={}))
    found = graph.run(None, to_arrays(given))
    for a, b in zip(found, function(given).values(), strict=True):
        np.testing.assert_allclose(a, to_array(b), rtol=tolerance, atol=tolerance * 100)


@pytest.mark.parametrize(("height", "width", "kernel", "stride", "padding"), GEOMETRIES)
def test_a_product_of_patches_is_a_convolution(height, width, kernel, stride, padding) -> None:
    def example(n: int) -> dict:
        return tensors(height, width, kernel, n=n, dtype=torch.float64)

    assert_same(convolve(stride, padding), example(5), example, 1e-10)


@pytest.mark.parametrize(("height", "width", "kernel", "stride", "padding"), GEOMETRIES[:3])
def test_a_wide_convolution_is_onnxruntimes_own(
    monkeypatch: pytest.MonkeyPatch, height, width, kernel, stride, padding
) -> None:
    monkeypatch.setattr(convolution, "MAX_PATCH_VALUES", 0)

    def example(n: int) -> dict:
        return tensors(height, width, kernel, n=n, dtype=torch.float32)

    assert_same(convolve(stride, padding), example(5), example, 1e-4)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7)])
def test_pooling_drops_what_fills_no_block(height: int, width: int) -> None:
    def pool(given: dict) -> dict:
        x = given["x"].detach().requires_grad_()
        y = F.avg_pool2d(x, 2)
        return {"y": y.detach(), "dx": slopes(y, x)[0]}

    def example(n: int) -> dict:
        return {"x": tensors(height, width, 1, n=n, dtype=torch.float64)["x"]}

    assert_same(pool, example(5), example, 1e-12)


def test_a_convolution_in_groups_is_refused() -> None:
    def grouped(given: dict) -> dict:
        return {"y": F.conv2d(given["x"], given["weight"][:, :1].expand(3, 1, 3, 3), groups=3)}

    def example(n: int) -> dict:
        given = tensors(8, 8, 3, n=n, dtype=torch.float32)
        return {"x": given["x"], "weight": given["weight"][:1]}

    with pytest.raises(ConfigError, match="a transposed, dilated or grouped convolution"):
        translate(trace(grouped, example), name="test", metadata={})
