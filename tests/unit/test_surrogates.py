"""The step that differentiates as a curve: exact forward, stated derivative, finite second one."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

import torch

from fedcore.errors import ConfigError
from fedcore.nn.surrogates import SURROGATES, smooth, spike

pytestmark = pytest.mark.torch

K = 4.0
DERIVATIVES = {  # the table of the module, written a second time without torch
    "fast_sigmoid": lambda x: 1 / (1 + K * abs(x)) ** 2,
    "arctan": lambda x: K / 2 / (1 + (math.pi / 2 * K * x) ** 2),
    "triangle": lambda x: max(0.0, K - K**2 * abs(x)),
    "rectangle": lambda x: K if abs(x) <= 1 / (2 * K) else 0.0,
    "sigmoid": lambda x: K * math.exp(-K * x) / (1 + math.exp(-K * x)) ** 2,
    "exponential": lambda x: K / 2 * math.exp(-K * abs(x)),
}
# At, near and far from the threshold, and on the kinks of triangle (1/K) and rectangle (1/2K).
POINTS = [0.0, 1e-9, -1e-9, 1 / K, -1 / K, 1 / (2 * K), -1 / (2 * K), 0.07, -0.3, 1.5, -20.0, 90.0]


def test_every_kind_has_its_derivative_here():
    assert DERIVATIVES.keys() == SURROGATES.keys()


@pytest.mark.parametrize("kind", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_is_exactly_the_step(kind, dtype):
    x = torch.linspace(-3, 3, 10_001, dtype=dtype)
    assert torch.equal(spike(x, kind=kind, sharpness=25.0), (x >= 0).to(dtype))
    assert spike(torch.zeros(1, dtype=dtype), kind=kind, sharpness=25.0) == 1  # at threshold


@pytest.mark.parametrize("kind", SURROGATES)
def test_backward_is_the_stated_derivative(kind):
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(spike(x, kind=kind, sharpness=K).sum(), x)
    stated = torch.tensor([DERIVATIVES[kind](p) for p in POINTS], dtype=torch.float64)
    torch.testing.assert_close(slope, stated, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", SURROGATES)
def test_differentiates_as_its_primitive(kind):
    x = torch.tensor([0.05, -0.11, 0.2, -0.23, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: smooth(x, kind=kind, sharpness=K), x)
    if kind != "rectangle":  # its second derivative is no function of x at all
        assert torch.autograd.gradgradcheck(lambda x: smooth(x, kind=kind, sharpness=K), x)


@pytest.mark.parametrize("kind", SURROGATES)
@pytest.mark.parametrize("sharpness", [1.0, 25.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivative_is_finite_everywhere(kind, sharpness, dtype):
    def slope(x):
        return torch.func.grad(lambda x: spike(x, kind=kind, sharpness=sharpness))(x)

    kinks = [s / (n * sharpness) for s in (-1, 1) for n in (1, 2)]
    x = torch.tensor([*POINTS, *kinks, -1e30, 1e30], dtype=dtype)
    first, second = torch.func.vmap(slope)(x), torch.func.vmap(torch.func.grad(slope))(x)
    assert float(first.min()) >= -1e-6 * sharpness  # a kink is 0 up to rounding
    assert bool(torch.isfinite(first).all())
    assert bool(torch.isfinite(second).all())


@pytest.mark.parametrize("kind", SURROGATES)
def test_functorch_and_autograd_agree_to_the_second_order(kind):
    def score(x):
        return (spike(x, kind=kind, sharpness=K) * torch.arange(1.0, 6.0)).square().sum()

    x = torch.tensor([0.05, -0.11, 0.0, -0.2, 1.0], requires_grad=True)
    (first,) = torch.autograd.grad(score(x), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    slope = torch.func.grad(score)
    curvature = torch.func.grad(lambda x: slope(x).square().sum())
    torch.testing.assert_close(slope(x.detach()), first.detach())
    torch.testing.assert_close(curvature(x.detach()), second)
    batched = torch.func.vmap(curvature)(torch.stack([x.detach(), -x.detach()]))
    torch.testing.assert_close(batched, torch.stack([second, curvature(-x.detach())]))


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no surrogate 'arctam'.*did you mean 'arctan'"):
        spike(torch.zeros(1), kind="arctam", sharpness=1.0)
