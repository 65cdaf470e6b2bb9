"""The CUBA neuron of SLAYER, as lava-dl 0.6.0 computes it for Loihi, in plain torch.

A current charges the membrane. Both are whole numbers of 1/4096, and what is multiplied is rounded
to zero (trunc), so that SLAYER, Lava's simulation and the chip agree on every spike:

    i[t] = trunc(i[t-1] keep_i / 4096) + trunc(4096 I[t])      current, from the synapses' I
    v[t] = trunc(r[t-1] keep_v / 4096) + i[t]                  charge
    s[t] = 1 where v[t] > 4096 threshold                       fire
    r[t] = v[t] (1 - s[t])                                     reset

with keep_i = 4096 - round(4096 current_decay), keep_v = 4096 - round(4096 (1 - decay)), and the
threshold rounded down to a whole number of 1/64. A spike leaves one step later (`delay_shift`).

Gradients see two leaky integrators in a row, i' = keep_i/4096 i' + I and v' = keep_v/4096 v' + i':
neither the rounding nor the reset. A spike's pseudo-derivative is the surrogate's at
v - threshold, times scale_grad / 10. SLAYER has the surrogate "exponential" only, with
sharpness = 1 / (100 tau_grad threshold); attackers may take others.

The synapses in front multiply by the weights rounded to whole numbers of 1/32 in [-4, 127/32]
(8 bits); gradients pass the rounding and stop at weights out of range. They have no bias.

SLAYER counts in 64 bits but passes currents on in float32, exact below 4096; a chip counts in 24
bits, so that beyond 2048 currents wrap and membranes stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.nn.neurons.base import Neuron
from fedcore.nn.neurons.lif import leaky_sum
from fedcore.nn.surrogates import spike
from fedcore.plan import NeuronSpec

__all__ = ["CubaOptions", "CubaState", "SlayerCuba"]

_GRID = 4096  # steps to the unit of the membrane, and of a decay (12 bits)
_MANTISSA = 64  # steps to the unit of a threshold
_WEIGHT_STEP = 2 / _MANTISSA
_WEIGHT_RANGE = (-256 / _MANTISSA, 254 / _MANTISSA)
_ABOVE = 0.01 / _GRID  # between the threshold and the next step: Loihi fires above, not at it


@dataclass(frozen=True, kw_only=True)
class CubaOptions:
    """What only this neuron has, under SLAYER's names.

    Attributes:
        current_decay: of the current per step, in [0, 1].
        scale_grad: factor on the pseudo-derivative, times 1/10.
        quantise_weights: whether synapses multiply by 8 bits; otherwise by the weights themselves.
        delay_shift: whether spikes take one step to the next layer, as they do on a chip. A network
            of n layers shows nothing in its first n steps then.
        delay: whether hidden layers learn delays of their axons, see `fedcore.nn.models.axons`.
    """

    current_decay: float = 0.25
    scale_grad: float = 1.0
    quantise_weights: bool = True
    delay_shift: bool = True
    delay: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.current_decay <= 1:
            raise ConfigError(f"current_decay must lie in [0, 1]; got {self.current_decay}")
        if not self.scale_grad > 0:
            raise ConfigError(f"scale_grad must be > 0; got {self.scale_grad}")


class CubaState(NamedTuple):
    """What a layer remembers, float64 [batch, neuron...].

    Attributes:
        current: i, in units of the membrane.
        membrane: r, after the reset.
        leaving: spikes on their way to the next layer, in the dtype of the currents.
    """

    current: Tensor
    membrane: Tensor
    leaving: Tensor


class SlayerCuba(Neuron[CubaState]):
    """Current-based leaky integrate-and-fire, see the module.

    Raises:
        ConfigError: an option that it does not have, a reset other than SLAYER's, or a threshold
            that SLAYER cannot tell from its neighbours.
    """

    options_type = CubaOptions
    on_bare_synapses = True

    options: CubaOptions

    def __init__(self, spec: NeuronSpec) -> None:
        super().__init__(spec)
        if spec.reset != "zero" or not spec.detach_reset:
            raise ConfigError(
                f"neuron {spec.name!r} resets to zero and its gradients ignore that; set reset = "
                f"'zero' and detach_reset = true; got {spec.reset!r} and {spec.detach_reset}"
            )
        if not 1 <= spec.threshold * _MANTISSA < _MANTISSA**2:
            raise ConfigError(
                f"neuron {spec.name!r} takes a threshold in [1/{_MANTISSA}, {_MANTISSA}); "
                f"got {spec.threshold}"
            )
        self.threshold = int(spec.threshold * _MANTISSA) / _MANTISSA
        self._keep_current = _keep(self.options.current_decay)
        self._keep_membrane = _keep(1 - spec.decay)

    @property
    def latency(self) -> int:
        """See `Neuron.latency`."""
        return int(self.options.delay_shift)

    @property
    def learns_delays(self) -> bool:
        """See `Neuron.learns_delays`."""
        return bool(self.options.delay)

    def slayer_parameters(self) -> dict[str, float]:
        """Its constants as lava-dl's `slayer.block.cuba` takes them (`neuron_params`).

        Raises:
            ConfigError: SLAYER has no such surrogate.
        """
        if self.spec.surrogate != "exponential":
            raise ConfigError(
                f"SLAYER has the surrogate 'exponential' only; got {self.spec.surrogate!r}"
            )
        return {
            "threshold": self.spec.threshold,
            "current_decay": self.options.current_decay,
            "voltage_decay": 1 - self.spec.decay,
            "tau_grad": 1 / (100 * self.spec.sharpness * self.threshold),
            "scale_grad": self.options.scale_grad,
        }

    def synaptic(self, weights: Tensor) -> Tensor:
        """The nearest weights of 8 bits; differentiates as the weights where those are in range."""
        if not self.options.quantise_weights:
            return weights
        fixed = weights.detach()
        rounded = torch.round(fixed / _WEIGHT_STEP) * _WEIGHT_STEP
        held = rounded.clamp(*_WEIGHT_RANGE)
        # A weight that is rounded to an end of the range still learns; torch's clamp may differ.
        return torch.where(rounded == held, rounded + (weights - fixed), held)

    def initial(self, current: Tensor) -> CubaState:
        """No current, no charge, no spike under way."""
        rest = torch.zeros_like(current, dtype=torch.float64)
        return CubaState(current=rest, membrane=rest, leaving=torch.zeros_like(current))

    def step(self, current: Tensor, state: CubaState) -> tuple[Tensor, CubaState]:
        """Leak, charge, fire, reset."""
        i, v = self._charge(current, state)
        fired = self._fire(v).to(current.dtype)
        after = CubaState(current=i, membrane=_reset(v, fired), leaving=fired)
        return (state.leaving if self.options.delay_shift else fired), after

    def run(self, currents: Tensor) -> Tensor:
        """The whole train: gradients see linear integrators, which are differentiated at once."""
        state = self.initial(currents[0].detach())
        membrane = []
        for current in currents.detach():
            i, v = self._charge(current, state)
            state = state._replace(current=i, membrane=_reset(v, v > self.threshold))
            membrane.append(v)
        linear = currents
        for keep in (self._keep_current, self._keep_membrane):
            linear = leaky_sum(linear, decay=keep / _GRID)
        fired = self._fire(torch.stack(membrane) + (linear - linear.detach())).to(currents.dtype)
        if not self.options.delay_shift:
            return fired
        return torch.cat([torch.zeros_like(fired[:1]), fired[:-1]])

    def _charge(self, current: Tensor, state: CubaState) -> tuple[Tensor, Tensor]:
        i = _leak(state.current, current, keep=self._keep_current)
        return i, _leak(state.membrane, i, keep=self._keep_membrane)

    def _fire(self, v: Tensor) -> Tensor:
        distance = v - (self.threshold + _ABOVE)
        fired = spike(distance, kind=self.spec.surrogate, sharpness=self.spec.sharpness)
        return fired.detach() + self.options.scale_grad / 10 * (fired - fired.detach())


def _keep(decay: float) -> int:
    return _GRID - round(float(np.float32(_GRID * decay)))  # SLAYER rounds a float32


def _leak(held: Tensor, arrives: Tensor, *, keep: int) -> Tensor:
    """keep/4096 of what is held and all that arrives, float64; differentiates without rounding."""
    whole = (torch.trunc(keep * held) + torch.trunc(_GRID * arrives.double())) / _GRID
    smooth = keep / _GRID * held + arrives
    return whole.detach() + (smooth - smooth.detach())


def _reset(v: Tensor, fired: Tensor) -> Tensor:
    return v - (v * fired).detach()
