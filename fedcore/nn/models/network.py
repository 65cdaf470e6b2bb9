"""A network over time: synapses see all steps at once, neurons go through them one by one.

Both twins are the same list of layers with the same parameters. A hidden layer is a synapse layer
(convolution, optionally pooled, or linear) and its neurons; the spiking twin has `NeuronSpec`
neurons where the conventional twin has an activation. Pooling comes before the neurons, so that
what a spiking layer receives from another is always binary. Where a model normalises, that comes
last before the neurons and takes the place of the synapses' bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fedcore.errors import ConfigError
from fedcore.nn.models import READOUT
from fedcore.nn.models.normalisation import BatchNorm, Moments, Normalisation, fixed_moments
from fedcore.nn.neurons import NEURONS
from fedcore.nn.neurons.lif import leaky_sum
from fedcore.plan import ModelSpec, NeuronSpec

__all__ = [
    "Architecture",
    "Integrating",
    "LayerList",
    "Network",
    "Normalising",
    "Run",
    "Sampling",
    "Spiking",
]

_TINY = 1e-30
_MAX_WEIGHTS = 1 << 31  # of one layer: 8 GiB, and more is a slip of the keyboard
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class Architecture(ABC):
    """A registered model: a frozen dataclass whose fields are its options."""

    @abstractmethod
    def build(self, spec: ModelSpec) -> Network:
        """The network for these inputs and classes, as either twin.

        Raises:
            ConfigError: the inputs do not fit.
        """


@dataclass(frozen=True, kw_only=True)
class Normalising(Architecture):
    """An architecture whose hidden layers may be normalised, each as "LAYER_norm".

    Attributes:
        normalisation: see `fedcore.nn.models.normalisation`.
        statistics: that "batch-eval" normalises by, "LAYER_norm.mean" and "LAYER_norm.variance",
            a number per channel; empty for mean 0 and variance 1 everywhere.
    """

    normalisation: Normalisation = "none"
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.statistics and self.normalisation != "batch-eval":
            raise ConfigError(
                "statistics are what normalisation 'batch-eval' takes; normalisation is "
                f"{self.normalisation!r}"
            )

    def layers(self, spec: ModelSpec) -> LayerList:
        """An empty list whose hidden layers are normalised as the options say."""
        return LayerList(spec, normalisation=self.normalisation, statistics=self.statistics)


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
    """Maps [time, batch, feature...] to logits. Built by `LayerList`.

    It holds no weights: its parameters lie on torch's meta device and only say names and shapes;
    `fedcore.nn.functional` takes the weights as an argument.

    Args:
        spec: what it was built from.
        layers: by name, in order.
    """

    def __init__(self, spec: ModelSpec, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.spec = spec
        for name, layer in layers.items():
            self.add_module(name, layer)

    @property
    def n_draws(self) -> int:
        """Draws that the network takes per example and step; 0 where nothing is random."""
        return sum(layer.size for layer in self.children() if isinstance(layer, Sampling))

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
            if isinstance(layer, (nn.Conv2d, nn.Linear, BatchNorm)):
                received[name] = x
            if isinstance(layer, Sampling):
                x, penalty = layer(x, noise)
            elif isinstance(layer, (Spiking, Integrating)):
                x = layer(x)
            else:  # has no memory: time is just more batch
                x = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return Run(received=received, trace=x, logits=self._logits(x), penalty=penalty)

    def _logits(self, trace: Tensor) -> Tensor:
        if self.spec.readout == "per_step":
            return trace
        if self.spec.readout == "spike_count" and self.spec.spiking:
            return trace.sum(0)
        return trace.mean(0)


class LayerList:
    """Collects the layers of a network one after another and follows the shape of an example.

    Args:
        spec: decides between the twins and names the readout.
        normalisation: of hidden layers, see `Normalising`.
        statistics: see there.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        normalisation: Normalisation = "none",
        statistics: Mapping[str, tuple[float, ...]] | None = None,
    ) -> None:
        self._spec = spec
        self._normalisation = normalisation
        self._statistics = statistics or {}
        self._shape = spec.input_shape
        self._layers: dict[str, nn.Module] = {}

    def conv(
        self, name: str, *, channels: int, kernel: int, stride: int = 1, pool: bool = False
    ) -> None:
        """Add a hidden convolutional layer, padded by half its (odd) kernel.

        Args:
            name: of its parameters.
            channels: it puts out.
            kernel: width and height.
            stride: of the convolution.
            pool: average 2x2 blocks before the neurons; an odd last row or column is dropped.

        Raises:
            ConfigError: the input is not an image, or becomes too small for the pooling; too many
                weights.
        """
        if len(self._shape) != 3:
            raise ConfigError(
                f"model {self._spec.name!r} takes images [channel, height, width]; input_shape is "
                f"{self._spec.input_shape}; model 'mlp' takes any shape"
            )
        depth, *size = self._shape
        self._check_size(name, channels * depth * kernel**2)
        self._layers[name] = nn.Conv2d(
            depth,
            channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            bias=self._normalisation == "none",
            device="meta",
        )
        size = [(n - 1) // stride + 1 for n in size]
        if pool:
            if min(size) < 2:
                raise ConfigError(
                    f"input_shape {self._spec.input_shape} is too small for model "
                    f"{self._spec.name!r}: {size[0]}x{size[1]} is left before the pooling of "
                    f"{name!r}; use larger images or another model"
                )
            self._layers[f"{name}_pool"] = nn.AvgPool2d(2)
            size = [n // 2 for n in size]
        self._shape = (channels, *size)
        self._end_hidden(name)

    def dense(self, name: str, *, n_outputs: int) -> None:
        """Add a hidden, fully connected layer; an image is flattened first.

        Raises:
            ConfigError: too many weights.
        """
        self._linear(name, n_outputs, bias=self._normalisation == "none")
        self._end_hidden(name)

    def finish(self) -> Network:
        """Add the readout and return the network.

        Raises:
            ConfigError: too many weights, or statistics of layers that are not there.
        """
        norms = (name for name, layer in self._layers.items() if isinstance(layer, BatchNorm))
        known = {f"{name}.{kind}" for name in norms for kind in Moments._fields}
        if odd := sorted(self._statistics.keys() - known):
            raise ConfigError(
                f"statistics of {', '.join(odd)}: model {self._spec.name!r} has only "
                f"{', '.join(sorted(known))}"
            )
        self._linear(READOUT, self._spec.n_classes, bias=True)
        if self._spec.spiking and self._spec.readout == "membrane_mean":
            self._layers[f"{READOUT}_neurons"] = Integrating(decay=self._spec.neuron.decay)
        elif self._spec.spiking and self._spec.readout == "spike_count":
            self._layers[f"{READOUT}_neurons"] = self._neurons()
        return Network(self._spec, self._layers)

    def _linear(self, name: str, n_outputs: int, *, bias: bool) -> None:
        self._check_size(name, n_outputs * prod(self._shape))
        if len(self._shape) > 1:
            self._layers[f"{name}_flatten"] = nn.Flatten()
        self._layers[name] = nn.Linear(prod(self._shape), n_outputs, bias=bias, device="meta")
        self._shape = (n_outputs,)

    def _end_hidden(self, name: str) -> None:
        """Normalise, where that is wanted, and add the neurons."""
        if self._normalisation != "none":
            self._layers[f"{name}_norm"] = self._norm(f"{name}_norm", n_channels=self._shape[0])
        self._layers[f"{name}_neurons"] = self._neurons()

    def _norm(self, name: str, *, n_channels: int) -> nn.Module:
        if self._normalisation == "batch-train":
            return BatchNorm(n_channels, fixed=None)
        fixed = fixed_moments(self._statistics, layer=name, n_channels=n_channels)
        return BatchNorm(n_channels, fixed=fixed)

    def _check_size(self, name: str, n_weights: int) -> None:
        if n_weights > _MAX_WEIGHTS:
            raise ConfigError(
                f"layer {name!r} of model {self._spec.name!r} would have {n_weights} weights; "
                f"at most {_MAX_WEIGHTS} are allowed"
            )

    def _neurons(self) -> nn.Module:
        if self._spec.spiking:
            return Spiking(self._spec.neuron)
        return _ACTIVATIONS[self._spec.activation]()
