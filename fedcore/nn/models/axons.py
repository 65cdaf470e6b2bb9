"""Axons that learn how late they deliver, as SLAYER's `slayer.axon.Delay` of lava-dl 0.6.0.

A spike of step t arrives at step t + floor(d), d held in [0, 62] (Loihi has 6 bits for it); what
would arrive behind the last step is lost. A neuron of a dense layer has a delay of its own, those
of a convolution share one per channel. The gradient in d takes the rate of change of what arrives,
x[t-1] - x[t], for the derivative of the rounded shift.

SLAYER moves a delay that left the range to its end before it uses it. Here it is used as that end
and keeps its value, so that weights are never changed by a forward run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Axons"]

_MAX_DELAY = 62  # steps


class Axons(nn.Module):
    """Spikes [time, batch, channel...] -> what arrives of them, same shape.

    Its parameter "delay" [channel] lies on torch's meta device, as all of a network's.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.delay = nn.Parameter(torch.empty(n_channels, device="meta"))

    def forward(self, spikes: Tensor) -> Tensor:
        """Deliver."""
        steps = torch.arange(len(spikes), device=spikes.device)
        taken = steps[:, None] - steps  # from one step to another
        whole = self.delay.detach().clamp(0, _MAX_DELAY).floor()
        arrives = (taken == whole[:, None, None]).to(spikes.dtype)
        channels = spikes.movedim(2, 0)  # [channel, time, batch...]
        late = (arrives @ channels.flatten(2)).reshape(channels.shape).movedim(0, 2)
        change = torch.cat([-late[:1], late[:-1] - late[1:]])
        learned = self.delay - self.delay.detach()  # 0, and differentiates as the delay
        return late + learned.reshape(-1, *[1] * (spikes.dim() - 3)) * change
