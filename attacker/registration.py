"""Images brought over one another by translation."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

__all__ = ["registered"]


def registered(images: Tensor, targets: Tensor, *, example_axis: int, reach: int) -> Tensor:
    """Each image, moved by whole pixels to where it is nearest to its target.

    All translations are tried; what leaves on one side comes in on the other. The nearest is that
    of the least squared distance, and of several the shortest. Plain features do not move.

    Args:
        images: [row, ..., example, feature...], of which channel and space are features; an
            example of a row moves as a whole, its steps, if there are any, together.
        targets: in the same shape.
        example_axis: where the examples are.
        reach: pixels that an image may move along each axis of space, forth and back.
    """
    n_spatial = min(images.ndim - example_axis - 2, 2)
    if n_spatial == 0:
        return images
    shifts = product(range(-reach, reach + 1), repeat=n_spatial)
    by_length = sorted(shifts, key=lambda shift: sum(step**2 for step in shift))
    space = tuple(range(-n_spatial, 0))
    moved = torch.stack([images.roll(shift, space) for shift in by_length])
    within = [axis + 1 for axis in range(1, images.ndim) if axis != example_axis]
    distances = (moved - targets).square().sum(within, keepdim=True)
    return moved.take_along_dim(distances.argmin(0, keepdim=True), dim=0).squeeze(0)
