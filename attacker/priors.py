"""What natural inputs look like before anything is observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedcore.types import TensorMap

__all__ = ["Belief", "statistics_distance", "total_variation"]

_TINY = 1e-5  # of a variance: what a normalising layer adds to it, too


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is known of the network's input beside its gradient.

    Attributes:
        values: by name, for an attack's own prior; empty where nothing is known.
        knowledge: capabilities that were used.
        certificate: where it comes from.
    """

    values: TensorMap = field(default_factory=dict)
    knowledge: tuple[str, ...] = ()
    certificate: Mapping[str, float] = field(default_factory=dict)


def statistics_distance(found: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Tensor:
    """How far means and variances are from known ones, in units of the known deviation; a scalar.

    Of each channel the square of the mean's distance over the deviation, plus the square of the
    variance's over the variance; the mean over the channels of a layer and over layers. The
    regulariser of Yin et al. 2020 (arXiv 1912.08795), which adds up lengths of differences, weighs
    layers by the size of their values instead.

    Args:
        found: "LAYER.mean" and "LAYER.variance", [channel] each.
        known: the same.
    """
    distances = []
    for name, mean in known.items():
        layer, _, kind = name.rpartition(".")
        if kind == "mean":
            variance = known[f"{layer}.variance"]
            scale = variance + _TINY
            mean_away = (found[name] - mean).square() / scale
            variance_away = ((found[f"{layer}.variance"] - variance) / scale).square()
            distances.append((mean_away + variance_away).mean())
    return torch.stack(distances).mean()


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
