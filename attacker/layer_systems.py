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
from torch.nn.grad import conv2d_input

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
        _of_gradient(layer, slopes, size=size), full_matrices=False
    )
    rank = int((singular > _RANK * singular[0]).sum())
    told = gradient.movedim(1, 0).reshape(n_channels, -1) @ left[:, :rank]
    if rank == n_places and singular[-1] > _SURE * singular[0]:
        return _solved((told / singular) @ right, size=size, rank=prod(size))
    known = ~outputs.flatten().isnan()
    scales = [1 / slopes.norm().clamp(min=_TINY), 1 / weight.norm().clamp(min=_TINY)]
    system = _System(
        layer=layer,
        size=size,
        of_places=scales[0] * (singular[:, None] * right)[:rank],
        weight=scales[1] * weight,
        known=known,
    )
    values = torch.cat([scales[0] * told.flatten(), scales[1] * outputs.flatten()[known]])
    x, rank = _least_squares(system, values)
    return _solved(x, size=size, rank=rank)


@dataclass(frozen=True, kw_only=True)
class _System:
    """Equations for what a convolution received: of its gradient, then of its outputs.

    Attributes:
        layer: gives stride and padding.
        size: of the input, (channel, height, width).
        of_places: the gradient's, the same for every channel alone, [equation, place].
        weight: [channel out, channel in, kernel, kernel].
        known: which outputs there are, [channel out * output place].
    """

    layer: nn.Conv2d
    size: tuple[int, ...]
    of_places: Tensor
    weight: Tensor
    known: Tensor

    def of(self, x: Tensor) -> Tensor:
        """What the equations say of an input [value, 1], [equation, 1]."""
        outputs = self._convolve(x.reshape(1, *self.size)).flatten()
        by_channel = x.reshape(self.size[0], -1) @ self.of_places.T
        return torch.cat([by_channel.flatten(), outputs[self.known]])[:, None]

    def back(self, values: Tensor) -> Tensor:
        """The transpose: from [equation, 1] to [value, 1]."""
        n = self.size[0] * len(self.of_places)
        by_channel = values[:n].reshape(self.size[0], -1) @ self.of_places
        outputs = torch.zeros(len(self.known)).to(values)
        outputs[self.known] = values[n:, 0]
        outputs = outputs.reshape(len(self.weight), *outputs_of(self.layer, self.size))
        behind = slopes_behind_conv(self.layer, self.weight, outputs, size=self.size)
        return (by_channel.flatten() + behind.flatten())[:, None]

    def normal(self) -> Tensor:
        """The system's transpose times itself, [value, value].

        Two values meet in the outputs whose windows hold both: one small block per window.
        """
        n_places, n_values = self.of_places.shape[1], prod(self.size)
        touched = _touched(self.layer, size=self.size)
        channels = torch.arange(self.size[0])[:, None, None]
        within = torch.where(touched > 0, channels * n_places + touched - 1, n_values).flatten(0, 1)
        known = self.known.reshape(len(self.weight), 1, -1).to(self.weight)
        weight = self.weight.flatten(1)
        blocks = torch.einsum("oi,oj,owl->ijl", weight, weight, known)
        found = torch.zeros(2 * (n_values + 1,), dtype=weight.dtype)  # the last is padding
        found.index_put_((within[:, None], within[None]), blocks, accumulate=True)
        alone = self.of_places.T @ self.of_places
        for first in range(0, n_values, n_places):
            found[first : first + n_places, first : first + n_places] += alone
        return found[:n_values, :n_values]

    def dense(self) -> Tensor:
        """All equations, [equation, value]."""
        by_channel = torch.kron(
            torch.eye(self.size[0]).to(self.weight), self.of_places.contiguous()
        )
        ones = torch.eye(prod(self.size)).to(self.weight).reshape(-1, *self.size)
        return torch.cat([by_channel, self._convolve(ones).flatten(1).T[self.known]])

    def _convolve(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, stride=self.layer.stride, padding=self.layer.padding)


def _least_squares(system: _System, values: Tensor) -> tuple[Tensor, int]:
    """The shortest solution, and the rank of the system.

    By the normal equations, twice, where they have a stable factor: much faster, and in float64
    as good for what float32 gradients can tell.
    """
    factor, failed = torch.linalg.cholesky_ex(system.normal())
    sizes = factor.diagonal()
    if not failed and sizes.min() > _RANK * sizes.max():
        x = torch.zeros(len(factor), 1).to(values)
        for _ in range(2):
            rest = values[:, None] - system.of(x)
            half = torch.linalg.solve_triangular(factor, system.back(rest), upper=False)
            x = x + torch.linalg.solve_triangular(factor.T, half, upper=True)
        return x, len(x)
    if not len(values):
        return torch.zeros(len(factor)).to(values), 0
    equations, right = system.dense().cpu(), values[:, None].cpu()  # no card has "gelsy"
    found = torch.linalg.lstsq(equations, right, rcond=_RANK, driver="gelsy")
    return found.solution.to(values), int(found.rank)


def _solved(x: Tensor, *, size: tuple[int, ...], rank: int) -> Solved:
    return Solved(
        x=x.reshape(size), n_missing=prod(size) - rank, error=_FLOAT32 * float(x.abs().max())
    )


def slopes_behind_conv(
    layer: nn.Conv2d, weight: Tensor, slopes: Tensor, *, size: tuple[int, ...]
) -> Tensor:
    """The loss's slopes in what a convolution received, from those in its outputs."""
    behind: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
        (1, *size), weight, slopes[None], stride=layer.stride, padding=layer.padding
    )[0]
    return behind


def outputs_of(layer: nn.Conv2d, size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a convolution's output, for an input [channel, height, width]."""
    image = torch.empty(1, *size, device="meta")
    high, wide = layer(image).shape[2:]
    return high, wide


def n_entries(layer: nn.Conv2d, size: tuple[int, ...]) -> int:
    """Of the largest system that `received_by_conv` may have to make, for such an input."""
    return prod(size) * (prod(size) + layer.out_channels * prod(outputs_of(layer, size)))


def _touched(layer: nn.Conv2d, *, size: tuple[int, ...]) -> Tensor:
    """Which place each kernel value meets in each window, 1 and up; 0 is padding. [_, window]."""
    places = torch.arange(1, 1 + size[1] * size[2], dtype=torch.float64)
    picks = torch.eye(prod(layer.kernel_size)).to(places)
    return (
        F.conv2d(
            places.reshape(1, 1, *size[1:]),
            picks.reshape(-1, 1, *layer.kernel_size),
            stride=layer.stride,
            padding=layer.padding,
        )[0]
        .flatten(1)
        .long()
    )


def _of_gradient(layer: nn.Conv2d, slopes: Tensor, *, size: tuple[int, ...]) -> Tensor:
    """Equations of every output channel and kernel value for one input channel, [_, place]."""
    touched = _touched(layer, size=size)
    shape = (len(slopes), *touched.shape)
    sums = torch.zeros(*shape[:2], 1 + size[1] * size[2]).to(slopes)
    sums.scatter_add_(2, touched.expand(shape), slopes.flatten(1)[:, None].expand(shape))
    return sums[..., 1:].flatten(0, 1)
