"""Layers of generators, along one spatial axis or two.

Where the authors' networks have BatchNorm, these have GroupNorm: at batch 1 and on an image of one
pixel, BatchNorm leaves nothing.
"""

from __future__ import annotations

from torch import nn

__all__ = ["N_GROUPS", "convolution", "normalised"]

N_GROUPS = 4


def convolution(
    n_spatial: int, n_in: int, n_out: int, *, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Module:
    """One that keeps even sides, or divides them by the stride; the kernel is odd."""
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[n_spatial]
    return kind(n_in, n_out, kernel, stride=stride, padding=kernel // 2, groups=groups)


def normalised(
    n_spatial: int, n_in: int, n_out: int, *, slope: float, kernel: int = 3, stride: int = 1
) -> nn.Module:
    """Convolution, normalisation and a leaky ReLU of this slope."""
    return nn.Sequential(
        convolution(n_spatial, n_in, n_out, kernel=kernel, stride=stride),
        nn.GroupNorm(N_GROUPS, n_out),
        nn.LeakyReLU(slope),
    )
