"""Linear systems for what one layer received: its output and its gradient both are linear in it.

With input x, output z = W x + b and the loss's slopes d in z, the gradient in W is d x^T for a
fully connected layer, and for a convolution the sum of such products over all positions. Where W
and d are known, known values of z and of the gradient are equations for x (Zhu and Blaschko 2021,
"R-GAP", weight and gradient constraints).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Solved",
    "n_entries",
    "outputs_of",
    "received_by_conv",
    "received_by_linear",
    "slopes_behind_conv",
]

_RANK = 1e-6  # of the largest singular value: below it float32 gradients say nothing
_SURE = 1e-5  # gradients whose system is conditioned better need no help from the outputs
_FLOAT32 = 2e-6  # of the largest value: what comes out of float32 gradients is not known better
_TINY = 1e-300


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What a layer received.

    Attributes:
        x: the shortest one of all that fit best.
        n_missing: its values less the rank of the equations; above 0 it is a guess.
        error: a value up to this may be nothing.
    """

    x: Tensor
    n_missing: int
    error: float = 0.0


def received_by_linear(gradient: Tensor, slopes: Tensor) -> Solved:
    """From the gradient alone: one output with a slope is enough.

    Args:
        gradient: in the weight, [output, input].
        slopes: of the loss in the outputs, [output].
    """
    energy = slopes @ slopes
    if energy == 0:
        return Solved(x=torch.zeros_like(gradient[0]), n_missing=gradient.shape[1])
    return Solved(x=slopes @ gradient / energy, n_missing=0)  # nothing is exactly 0


def received_by_conv(
    layer: nn.Conv2d,
    *,
    weight: Tensor,
    gradient: Tensor,
    slopes: Tensor,
    outputs: Tensor,
    size: tuple[int, ...],
) -> Solved:
    """From the gradient and, where it is not enough, from the outputs.

    Args:
        layer: gives stride and padding.
        weight: [channel out, channel in, kernel, kernel].
        gradient: in it.
        slopes: of the loss in the outputs, [channel out, height, width].
        outputs: less the bias, in the same shape; NaN where they are not known.
        size: of the input, (channel, height, width).
    """
    n_channels, n_places = size[0], size[1] * size[2]
    left, singular, right = torch.linalg.svd(
        _of_gradient(layer, weight, slopes, size=size), full_matrices=False
    )
    rank = int((singular > _RANK * singular[0]).sum())
    told = gradient.movedim(1, 0).reshape(n_channels, -1) @ left[:, :rank]
    if rank == n_places and singular[-1] > _SURE * singular[0]:
        return _solved((told / singular) @ right, size=size, rank=prod(size))
    by_gradient = torch.kron(
        torch.eye(n_channels).to(told), (singular[:, None] * right)[:rank].contiguous()
    )
    known = ~outputs.flatten().isnan()
    by_output = _of_output(layer, weight, size=size)[known]
    scales = [1 / slopes.norm().clamp(min=_TINY), 1 / weight.norm().clamp(min=_TINY)]
    system = torch.cat([scales[0] * by_gradient, scales[1] * by_output])
    values = torch.cat([scales[0] * told.flatten(), scales[1] * outputs.flatten()[known]])
    x, rank = _least_squares(system, values)
    return _solved(x, size=size, rank=rank)


def _least_squares(system: Tensor, values: Tensor) -> tuple[Tensor, int]:
    """The shortest solution, and the rank of the system.

    By the normal equations, twice, where they have a stable factor: much faster, and in float64
    as good for what float32 gradients can tell.
    """
    factor, failed = torch.linalg.cholesky_ex(system.T @ system)
    sizes = factor.diagonal()
    if not failed and sizes.min() > _RANK * sizes.max():
        x = torch.zeros_like(system[:1]).T
        for _ in range(2):
            x = x + torch.cholesky_solve(system.T @ (values[:, None] - system @ x), factor)
        return x, len(x)
    if not len(system):
        return torch.zeros(system.shape[1]).to(system), 0
    found = torch.linalg.lstsq(system, values[:, None], rcond=_RANK, driver="gelsy")
    return found.solution, int(found.rank)


def _solved(x: Tensor, *, size: tuple[int, ...], rank: int) -> Solved:
    return Solved(
        x=x.reshape(size), n_missing=prod(size) - rank, error=_FLOAT32 * float(x.abs().max())
    )


def slopes_behind_conv(
    layer: nn.Conv2d, weight: Tensor, slopes: Tensor, *, size: tuple[int, ...]
) -> Tensor:
    """The loss's slopes in what a convolution received, from those in its outputs."""
    _, pull_back = torch.func.vjp(  # type: ignore[misc]  # three with has_aux alone
        lambda x: F.conv2d(x, weight, stride=layer.stride, padding=layer.padding),
        torch.zeros(size).to(weight),
    )
    behind: Tensor = pull_back(slopes)[0]
    return behind


def outputs_of(layer: nn.Conv2d, size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a convolution's output, for an input [channel, height, width]."""
    image = torch.empty(1, *size, device="meta")
    high, wide = layer(image).shape[2:]
    return high, wide


def n_entries(layer: nn.Conv2d, size: tuple[int, ...]) -> int:
    """Of the largest system that `received_by_conv` may have to make, for such an input."""
    return prod(size) * (prod(size) + layer.out_channels * prod(outputs_of(layer, size)))


def _of_gradient(
    layer: nn.Conv2d, weight: Tensor, slopes: Tensor, *, size: tuple[int, ...]
) -> Tensor:
    """Equations of every output channel and kernel value for one input channel, [_, place]."""
    places = torch.eye(size[1] * size[2]).to(weight).reshape(-1, 1, *size[1:])
    n_values = weight.shape[2] * weight.shape[3]
    picks = torch.eye(n_values).to(weight).reshape(n_values, 1, *weight.shape[2:])
    seen = F.conv2d(places, picks, stride=layer.stride, padding=layer.padding).flatten(2)
    return torch.einsum("op,xkp->okx", slopes.flatten(1), seen).flatten(0, 1)


def _of_output(layer: nn.Conv2d, weight: Tensor, *, size: tuple[int, ...]) -> Tensor:
    """The convolution as a matrix, [output, input]."""
    ones = torch.eye(prod(size)).to(weight).reshape(-1, *size)
    outputs = F.conv2d(ones, weight, stride=layer.stride, padding=layer.padding)
    return outputs.flatten(1).T
