"""How far a candidate's gradient is from the observed one, over all layers of one victim.

Both measures are relative to the observed gradient's length, so that a trained model's tiny
gradients are matched as well as an untrained model's. Written for one victim; callers vmap.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["cosine_distance", "inner_product", "squared_distance"]

_TINY = 1e-30  # below it a candidate's gradient has no direction in float32


def inner_product(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """Sum of the products of all entries, a scalar."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def squared_distance(found: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """|found - target|^2 / |target|^2, a scalar.

    Eq. 2 of Zhu et al. 2019 (arXiv 1906.08935), divided by a constant: the minimum stays where it
    is, and L-BFGS meets the same scale on every victim.
    """
    difference = {name: found[name] - target[name] for name in target}
    return inner_product(difference, difference) / inner_product(target, target)


def cosine_distance(found: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """1 - cos of the angle between the gradients, in [0, 2], a scalar.

    First term of Eq. 4 of Geiping et al. 2020 (arXiv 2003.14053). Multiplying either gradient by
    a positive number changes nothing.
    """
    lengths = [inner_product(g, g).clamp(min=_TINY).sqrt() for g in (found, target)]
    return 1 - inner_product(found, target) / (lengths[0] * lengths[1])
