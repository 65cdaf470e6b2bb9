"""What natural inputs look like before anything is observed."""

from __future__ import annotations

from torch import Tensor

__all__ = ["total_variation"]


def total_variation(candidate: Tensor, *, n_spatial: int) -> Tensor:
    """Mean absolute difference between neighbours, added up over the spatial axes; a scalar.

    Anisotropic, as in the code of Geiping et al. 2020 (arXiv 2003.14053). A train over time is
    compared within each step, never between steps.

    Args:
        candidate: [..., channel, height, width] with two spatial axes, or [..., channel, length]
            with one.
        n_spatial: trailing axes that are space; 0 (a plain vector of features) costs nothing.
    """
    variation = candidate.new_zeros(())
    for axis in range(-n_spatial, 0):
        if candidate.shape[axis] > 1:
            variation = variation + candidate.diff(dim=axis).abs().mean()
    return variation
