"""Batch normalisation whose statistics are the batch's own, or fixed; none of them is a weight.

A plain FedAvg implementation keeps running means and variances beside the weights and sends them
back, which tells the statistics of the client's batches exactly. Here they never cross the wire, as
in FedBN (Li et al. 2021, arXiv 2102.07623) and in the static normalisation of HeteroFL (Diao et al.
2021, arXiv 2010.01264); an attacker that should know them is granted `batch_statistics`.

* "batch-train" normalises by the very batch that is run, in training and in evaluation. A gradient
  goes through the statistics, and an example's output depends on the others in its batch.
* "batch-eval" normalises by statistics that stand in the model's options, like its sizes: frozen
  for the whole run, and known to everybody who knows the plan.

Only scale and shift are parameters, so that codecs, strategies and defences meet nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fedcore.errors import ConfigError

__all__ = ["BatchNorm", "Moments", "Normalisation", "fixed_moments", "moments"]

Normalisation = Literal["none", "batch-train", "batch-eval"]

_EPSILON = 1e-5  # added to the variance, as torch does


class Moments(NamedTuple):
    """Of each channel, [channel]."""

    mean: Tensor
    variance: Tensor


def moments(x: Tensor) -> Moments:
    """Mean and mean squared deviation of each channel of [example, channel, ...]."""
    values = x.movedim(1, 0).flatten(1)
    mean = values.mean(1)
    return Moments(mean, (values - mean[:, None]).square().mean(1))


class BatchNorm(nn.Module):
    """Brings every channel to mean 0 and variance 1, then scales it by "weight" and shifts it.

    Ioffe and Szegedy 2015 (arXiv 1502.03167, Algorithm 1), over every axis but the channels'. A
    `Network` hands in all steps as one long batch, so that statistics are taken over time, too, as
    Zheng et al. 2021 do for spiking networks (arXiv 2011.05280; without their factor): the batch's
    own let later steps reach into earlier ones. A channel with a single value, as a dense layer's
    in a batch of one, becomes its shift.

    Args:
        n_channels: of its input.
        fixed: statistics to normalise by; None takes the batch's own.
    """

    def __init__(self, n_channels: int, *, fixed: Moments | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_channels, device="meta"))
        self.bias = nn.Parameter(torch.empty(n_channels, device="meta"))
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [example, channel, ...]."""
        mean, variance = (part.to(x) for part in self.fixed or moments(x))
        slope = self.weight / (variance + _EPSILON).sqrt()
        shape = (-1, *(1 for _ in x.shape[2:]))
        return (x - mean.reshape(shape)) * slope.reshape(shape) + self.bias.reshape(shape)


def fixed_moments(
    statistics: Mapping[str, tuple[float, ...]], *, layer: str, n_channels: int
) -> Moments:
    """What a layer is normalised by in a model with these statistics; mean 0, variance 1 if none.

    Args:
        statistics: "LAYER.mean" and "LAYER.variance", a number per channel.
        layer: its name.
        n_channels: that it has.

    Raises:
        ConfigError: the layer is not among them, has another number of channels, or a negative
            variance.
    """
    if not statistics:
        return Moments(torch.zeros(n_channels), torch.ones(n_channels))
    found = {kind: statistics.get(f"{layer}.{kind}", ()) for kind in Moments._fields}
    for kind, values in found.items():
        if len(values) != n_channels:
            raise ConfigError(
                f"statistics '{layer}.{kind}' must have {n_channels} values, one per channel; "
                f"got {len(values)}"
            )
    if min(found["variance"]) < 0:
        raise ConfigError(f"statistics '{layer}.variance' must be >= 0; got {found['variance']}")
    return Moments(*(torch.tensor(values) for values in found.values()))
