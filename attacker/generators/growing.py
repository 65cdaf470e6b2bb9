"""Generators that grow an image from a vector, doubling its sides."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import nn

from attacker.generators.base import Canvas
from attacker.generators.layers import N_GROUPS, convolution, normalised

__all__ = ["gated", "over_parameterised"]

_SLOPE = 0.1


def over_parameterised(canvas: Canvas, *, n_latent: int, channels: int) -> nn.Module:
    """Two normalised convolutions at every size, as in the code of CI-Net (Zhang et al. 2023).

    Without its spectral normalisation: the scale of a convolution's weights is normalised away
    behind it.

    Args:
        canvas: on which it draws.
        n_latent: numbers per example.
        channels: at every size.
    """
    d = canvas.n_spatial
    first = canvas.halved(canvas.n_doublings)
    layers: list[nn.Module] = [
        nn.Linear(n_latent, channels * prod(first)),
        nn.Unflatten(1, (channels, *first)),
        nn.GroupNorm(N_GROUPS, channels),
        nn.LeakyReLU(_SLOPE),
    ]
    for size in range(canvas.n_doublings + 1):
        if size:
            layers.append(nn.Upsample(scale_factor=2))
        layers += [normalised(d, channels, channels, slope=_SLOPE) for _ in range(2)]
    layers.append(convolution(d, channels, canvas.n_channels, kernel=1))
    return nn.Sequential(*layers)


def gated(canvas: Canvas, *, n_latent: int, channels: int) -> nn.Module:
    """Gated linear units, halving the channels with every doubling, as in the code of GRNN.

    Args:
        canvas: on which it draws.
        n_latent: numbers per example.
        channels: before the last doubling.
    """
    d = canvas.n_spatial
    first = canvas.halved(canvas.n_doublings)
    widths = [channels * 2**n for n in reversed(range(canvas.n_doublings))]
    widths = [*widths, canvas.n_channels]
    layers: list[nn.Module] = [
        nn.Linear(n_latent, 2 * widths[0] * prod(first)),
        nn.Unflatten(1, (2 * widths[0], *first)),
        nn.GLU(dim=1),
    ]
    for n_in, n_out in pairwise(widths):
        layers += [
            nn.Upsample(scale_factor=2),
            convolution(d, n_in, 2 * n_out, kernel=3),
            nn.GroupNorm(2, 2 * n_out),
            nn.GLU(dim=1),
        ]
    return nn.Sequential(*layers)
