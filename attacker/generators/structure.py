"""What can differ between hourglass generators, and how to draw from that space."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
from torch import nn

from attacker.generators.layers import convolution

__all__ = ["Structure", "growth", "random_structure"]

Upsampling = Literal["nearest", "linear", "cubic", "shuffle"]
Mixing = Literal["none", "full", "separable", "depthwise"]

_KERNELS = (1, 3, 5, 7)
_SLOPE = 0.2
_MODES = {
    ("nearest", 1): "nearest",
    ("nearest", 2): "nearest",
    ("linear", 1): "linear",
    ("linear", 2): "bilinear",
    ("cubic", 2): "bicubic",
}


@dataclass(frozen=True, kw_only=True)
class Structure:
    """How an hourglass grows its image, and which features it passes across.

    Attributes:
        upsampling: what doubles the sides; "shuffle" makes pixels of channels.
        mixing: the convolution behind it.
        kernel: of that convolution.
        rectified: whether a leaky ReLU comes last.
        skips: (from, to): levels of the shrinking half whose features are added to the growing
            half's. The image itself is level 0, and the sides halve from level to level.
    """

    upsampling: Upsampling = "linear"
    mixing: Mixing = "none"
    kernel: int = 3
    rectified: bool = False
    skips: tuple[tuple[int, int], ...]


def random_structure(rng: np.random.Generator, *, n_levels: int, n_spatial: int) -> Structure:
    """One of the space, every choice and every skip with equal chances.

    Args:
        rng: draws.
        n_levels: of the hourglass.
        n_spatial: of what it draws; cubic and shuffle need two axes.
    """
    upsamplings = get_args(Upsampling)[: 4 if n_spatial == 2 else 2]
    pairs = product(range(n_levels), range(n_levels))
    forms = list(product(upsamplings, get_args(Mixing), _KERNELS, (False, True)))
    upsampling, mixing, kernel, rectified = forms[rng.integers(len(forms))]
    return Structure(
        upsampling=upsampling,
        mixing=mixing,
        kernel=kernel,
        rectified=rectified,
        skips=tuple(pair for pair in pairs if rng.integers(2)),
    )


def growth(structure: Structure, *, n_spatial: int, channels: int) -> nn.Module:
    """What doubles the sides in the growing half."""
    layers: list[nn.Module] = []
    if structure.upsampling == "shuffle":
        layers += [convolution(n_spatial, channels, 4 * channels, kernel=1), nn.PixelShuffle(2)]
    else:
        layers += [nn.Upsample(scale_factor=2, mode=_MODES[structure.upsampling, n_spatial])]
    if structure.mixing == "full":
        layers += [convolution(n_spatial, channels, channels, kernel=structure.kernel)]
    if structure.mixing in ("separable", "depthwise"):
        layers += [
            convolution(n_spatial, channels, channels, kernel=structure.kernel, groups=channels)
        ]
    if structure.mixing == "separable":
        layers += [convolution(n_spatial, channels, channels, kernel=1)]
    if structure.rectified:
        layers += [nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers)
