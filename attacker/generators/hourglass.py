"""Generators that shrink a latent image and grow it again."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attacker.generators.base import Canvas
from attacker.generators.layers import convolution, normalised
from attacker.generators.structure import Structure, growth

__all__ = ["Hourglass"]

_SLOPE = 0.2


class Hourglass(nn.Module):
    """Maps a latent image to one on the canvas, as the networks of Ulyanov et al. 2018 do.

    Args:
        canvas: on which it draws.
        structure: what differs between such networks.
        n_latent: channels of the latent image.
        channels: of every layer.
        n_levels: halvings of the sides; the latent image can be halved so many times.
    """

    def __init__(
        self, canvas: Canvas, structure: Structure, *, n_latent: int, channels: int, n_levels: int
    ) -> None:
        super().__init__()
        d = canvas.n_spatial
        widths = [n_latent] + [channels] * n_levels
        self.shrinking = nn.ModuleList(
            nn.Sequential(
                normalised(d, n_in, channels, slope=_SLOPE, stride=2),
                normalised(d, channels, channels, slope=_SLOPE),
            )
            for n_in in widths[:-1]
        )
        self.growing = nn.ModuleList(
            growth(structure, n_spatial=d, channels=channels) for _ in range(n_levels)
        )
        self.mixing = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, channels),
                normalised(d, channels, channels, slope=_SLOPE),
                normalised(d, channels, channels, slope=_SLOPE, kernel=1),
            )
            for _ in range(n_levels)
        )
        self.skips = structure.skips
        self.skipping = nn.ModuleList(
            normalised(d, widths[origin], channels, slope=_SLOPE, kernel=1)
            for origin, _ in self.skips
        )
        self.last = convolution(d, channels, canvas.n_channels, kernel=1)

    def forward(self, latent: Tensor) -> Tensor:
        """[example, latent channel, side...] -> [example, channel, side...]."""
        features = [latent]
        for shrink in self.shrinking:
            features.append(shrink(features[-1]))
        x = features[-1]
        for level in reversed(range(len(self.growing))):
            x = self.growing[level](x)
            for (origin, end), skip in zip(self.skips, self.skipping, strict=True):
                if end == level:
                    x = x + skip(_resized(features[origin], n_halvings=end - origin))
            x = self.mixing[level](x)
        drawn: Tensor = self.last(x)
        return drawn


def _resized(image: Tensor, *, n_halvings: int) -> Tensor:
    """Means of pixels where the sides are halved, copies where they are doubled."""
    if n_halvings <= 0:
        return F.interpolate(image, scale_factor=float(2**-n_halvings))
    pool = {3: F.avg_pool1d, 4: F.avg_pool2d}[image.dim()]
    return pool(image, 2**n_halvings)
