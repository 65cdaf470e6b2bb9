"""A network over time: synapses see all steps at once, neurons go through them one by one."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fedcore.errors import ConfigError
from fedcore.nn.models.axons import Axons
from fedcore.nn.models.normalisation import BatchNorm
from fedcore.nn.neurons import NEURONS
from fedcore.nn.neurons.lif import leaky_sum
from fedcore.plan import ModelSpec, NeuronSpec

__all__ = ["Integrating", "Network", "Run", "Sampling", "Spiking"]

_TINY = 1e-30
_SYNAPSES = (nn.Conv2d, nn.Linear)


class Spiking(nn.Module):
    """A layer of spiking neurons: currents [time, batch, neuron...] -> spikes, same shape."""

    def __init__(self, spec: NeuronSpec) -> None:
        super().__init__()
        self.neuron = NEURONS.get(spec.name)(spec)

    def forward(self, currents: Tensor) -> Tensor:
        """Run the neurons from rest."""
        return self.neuron.run(currents)


class Integrating(nn.Module):
    """Output neurons that never fire: currents [time, batch, class] -> membrane, same shape."""

    def __init__(self, *, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def forward(self, currents: Tensor) -> Tensor:
        """Run the leaky integrators from rest."""
        return leaky_sum(currents, decay=self.decay)


class Sampling(nn.Module):
    """Draws a code from the normal distribution that it receives, at every step by itself.

    [time, batch, 2 n] -> [time, batch, n]: means in the first half, and in the second what
    softplus makes standard deviations of.

    Args:
        size: n.
        beta: weight of the code's information in the loss.
    """

    def __init__(self, *, size: int, beta: float) -> None:
        super().__init__()
        self.size = size
        self.beta = beta

    def forward(self, statistics: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The code, and beta times its mean divergence from N(0, 1) in nats, a scalar.

        Args:
            statistics: [time, batch, 2 n].
            noise: draws from N(0, 1), [time, batch, n]; None for the code's mean.
        """
        mean, spread = statistics.chunk(2, dim=-1)
        deviation = F.softplus(spread)
        nats = (mean.square() + deviation.square() - 1) / 2 - deviation.clamp(min=_TINY).log()
        code = mean if noise is None else mean + deviation * noise
        return code, self.beta * nats.sum(-1).mean()


class Run(NamedTuple):
    """What came about in a forward run.

    Attributes:
        received: by every layer with parameters, by its name, [time, batch, feature...].
        trace: the output at every step, [time, batch, class]. For the spiking twin it is the
            membrane ("membrane_mean"), the current ("per_step") or the spikes ("spike_count") of
            the last layer, for the conventional twin each step's logits.
        logits: [batch, class], or [time, batch, class] for readout "per_step".
        penalty: what the network adds to its loss, a scalar; 0 but for `Sampling` layers.
    """

    received: dict[str, Tensor]
    trace: Tensor
    logits: Tensor
    penalty: Tensor | float


class Network(nn.Module):
    """Maps [time, batch, feature...] to logits. Built by `fedcore.nn.models.architecture`.

    It holds no weights: its parameters lie on torch's meta device and only say names and shapes;
    `fedcore.nn.functional` takes the weights as an argument.

    Args:
        spec: what it was built from.
        layers: by name, in order.

    Raises:
        ConfigError: its neurons stand on bare synapses, and it has layers of other kinds.
    """

    def __init__(self, spec: ModelSpec, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.spec = spec
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._neuron = NEURONS.get(spec.neuron.name)(spec.neuron) if spec.spiking else None
        if self._neuron is not None and self._neuron.on_bare_synapses:
            self._refuse_what_covers_synapses()

    @property
    def n_draws(self) -> int:
        """Draws that the network takes per example and step; 0 where nothing is random."""
        return sum(layer.size for layer in self.children() if isinstance(layer, Sampling))

    @property
    def n_unheard(self) -> int:
        """Last steps of the inputs that come too late for the output."""
        neurons = [layer.neuron for layer in self.children() if isinstance(layer, Spiking)]
        return sum(neuron.latency for neuron in neurons)

    @property
    def norms(self) -> dict[str, BatchNorm]:
        """Its normalising layers by name, in order."""
        return {n: layer for n, layer in self.named_children() if isinstance(layer, BatchNorm)}

    @property
    def mixes_examples(self) -> bool:
        """Whether what it says of an example depends on the others in its batch."""
        return any(norm.fixed is None for norm in self.norms.values())

    @property
    def fixed_statistics(self) -> dict[str, Tensor]:
        """What its layers normalise by where that is fixed, "LAYER.mean" and "LAYER.variance"."""
        return {
            f"{name}.{kind}": values
            for name, norm in self.norms.items()
            if norm.fixed is not None
            for kind, values in norm.fixed._asdict().items()
        }

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Run:
        """Run from rest.

        Args:
            inputs: [time, batch, feature...].
            noise: draws from N(0, 1), [time, batch, n_draws]; None takes the means of what is
                drawn.

        Raises:
            ConfigError: the inputs are not [time, batch, *spec.input_shape].
        """
        if inputs.shape[2:] != self.spec.input_shape:
            expected = ", ".join(map(str, self.spec.input_shape))
            raise ConfigError(
                f"model {self.spec.name!r} takes inputs [time, batch, {expected}]; "
                f"got {list(inputs.shape)}"
            )
        x, received, penalty = inputs, {}, 0.0
        for name, layer in self.named_children():
            if isinstance(layer, (*_SYNAPSES, BatchNorm)):
                received[name] = x
            if isinstance(layer, Sampling):
                x, penalty = layer(x, noise)
            elif isinstance(layer, (Axons, Integrating, Spiking)):
                x = layer(x)
            else:
                x = self._at_once(layer, x)
        return Run(received=received, trace=x, logits=self._logits(x), penalty=penalty)

    def _at_once(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Run a layer without memory: time is just more batch."""
        swapped = {}
        if self._neuron is not None and isinstance(layer, _SYNAPSES):
            swapped = {"weight": self._neuron.synaptic(layer.weight)}
        out: Tensor = functional_call(layer, swapped, (x.flatten(0, 1),))
        return out.reshape(*x.shape[:2], *out.shape[1:])

    def _logits(self, trace: Tensor) -> Tensor:
        if self.spec.readout == "per_step":
            return trace
        if self.spec.readout == "spike_count" and self.spec.spiking:
            return trace.sum(0)
        return trace.mean(0)

    def _refuse_what_covers_synapses(self) -> None:
        *_, last = self.children()
        bare = (*_SYNAPSES, nn.Flatten, Axons, Spiking)
        odd = [name for name, layer in self.named_children() if not isinstance(layer, bare)]
        if odd or not isinstance(last, Spiking):
            found = f"has {', '.join(odd)}" if odd else "ends without it"
            raise ConfigError(
                f"neuron {self.spec.neuron.name!r} stands behind bare convolutions and dense "
                f"layers, the readout too; model {self.spec.name!r} {found}; choose a model "
                "without pooling, normalisation and bottleneck, and readout 'spike_count'"
            )
