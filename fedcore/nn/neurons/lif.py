"""The leaky integrate-and-fire neuron.

    v[t] = decay * u[t-1] + I[t]        charge, u[-1] = 0
    s[t] = 1 where v[t] >= threshold    fire
    u[t] = v[t] - threshold * s[t]      reset "subtract"
    u[t] = v[t] * (1 - s[t])            reset "zero"

`detach_reset` treats s[t] in the reset as a constant when differentiating. In other packages:

* SpikingJelly `LIFNode(tau)`: decay = 1 - 1/tau, the same I with `decay_input=False` and I/tau
  with `decay_input=True`; `v_reset=None` is "subtract", `v_reset=0.` is "zero".
* snnTorch `Leaky(beta)`: decay = beta, but it fires above the threshold, not at it. Its default
  `reset_delay=True` always detaches the reset; "zero" is the same neuron, whereas "subtract"
  takes the threshold off after the leak (v[t] = beta * v[t-1] + I[t] - threshold * s[t-1]) and
  is the same only for beta = 1. With `reset_delay=False` the reset is never detached and both
  are the same neuron as long as v stays below two thresholds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedcore.nn.neurons.base import Neuron
from fedcore.nn.surrogates import spike

__all__ = ["Lif", "LifState", "leaky_sum"]


class LifState(NamedTuple):
    """What a LIF layer remembers.

    Attributes:
        u: membrane after the reset, [batch, neuron...].
    """

    u: Tensor


class Lif(Neuron[LifState]):
    """Leaky integrate-and-fire, see the module."""

    def initial(self, current: Tensor) -> LifState:
        """A membrane at zero."""
        return LifState(u=torch.zeros_like(current))

    def step(self, current: Tensor, state: LifState) -> tuple[Tensor, LifState]:
        """Charge, fire, reset."""
        v = self._charge(current, state)
        spikes = self._fire(v)
        return spikes, self._reset(v, spikes.detach() if self.spec.detach_reset else spikes)

    def run(self, currents: Tensor) -> Tensor:
        """The whole train; far fewer operations to differentiate where the gradient allows it.

        With a detached subtraction the membrane is linear in the currents as far as gradients
        can see: v = leaky_sum(I) + constant. So the steps run outside the graph, and all of them
        are differentiated at once.
        """
        if not (self.spec.detach_reset and self.spec.reset == "subtract"):
            return super().run(currents)
        state = self.initial(currents[0].detach())
        membrane = []
        for current in currents.detach():
            v = self._charge(current, state)
            state = self._reset(v, (v >= self.spec.threshold).to(v.dtype))
            membrane.append(v)
        linear = leaky_sum(currents, decay=self.spec.decay)
        return self._fire(torch.stack(membrane) + (linear - linear.detach()))

    def _charge(self, current: Tensor, state: LifState) -> Tensor:
        return torch.add(current, state.u, alpha=self.spec.decay)

    def _fire(self, v: Tensor) -> Tensor:
        return spike(
            v - self.spec.threshold, kind=self.spec.surrogate, sharpness=self.spec.sharpness
        )

    def _reset(self, v: Tensor, spikes: Tensor) -> LifState:
        if self.spec.reset == "subtract":
            return LifState(u=torch.sub(v, spikes, alpha=self.spec.threshold))
        return LifState(u=v - v * spikes)


def leaky_sum(currents: Tensor, *, decay: float) -> Tensor:
    """A leaky integrator without threshold: v[t] = sum over u <= t of decay^(t-u) I[u].

    Args:
        currents: [time, ...].
        decay: per step, in (0, 1].

    Returns:
        The membrane at every step, in the shape of `currents`.
    """
    steps = torch.arange(len(currents), dtype=currents.dtype, device=currents.device)
    age = (steps[:, None] - steps).clamp(min=0)
    membrane: Tensor = torch.tensordot(torch.pow(decay, age).tril(), currents, dims=1)
    return membrane
