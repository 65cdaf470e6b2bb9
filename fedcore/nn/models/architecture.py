"""Architectures: layers put together as either twin.

Both twins are the same list of layers with the same parameters. A hidden layer is a synapse layer
(convolution, optionally pooled, or linear) and its neurons; the spiking twin has `NeuronSpec`
neurons where the conventional twin has an activation. Pooling comes before the neurons, so that
what a spiking layer receives from another is always binary. Where a model normalises, that comes
last before the neurons and takes the place of the synapses' bias. Nor do synapses have a bias, as
either twin, where the spec names a neuron that wants them bare. If such a neuron learns delays, the
spiking twin has axons behind its hidden layers, and parameters that the other has not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from torch import nn

from fedcore.errors import ConfigError
from fedcore.nn.models import READOUT
from fedcore.nn.models.axons import Axons
from fedcore.nn.models.network import Integrating, Network, Spiking
from fedcore.nn.models.normalisation import BatchNorm, Moments, Normalisation, fixed_moments
from fedcore.nn.neurons import NEURONS
from fedcore.plan import ModelSpec

__all__ = ["Architecture", "LayerList", "Normalising"]

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
        self._bare = NEURONS.get(spec.neuron.name).on_bare_synapses
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
            bias=self._has_bias,
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
        self._linear(name, n_outputs, bias=self._has_bias)
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
        self._linear(READOUT, self._spec.n_classes, bias=not self._bare)
        if self._spec.spiking and self._spec.readout == "membrane_mean":
            self._layers[f"{READOUT}_neurons"] = Integrating(decay=self._spec.neuron.decay)
        elif self._spec.spiking and self._spec.readout == "spike_count":
            self._layers[f"{READOUT}_neurons"] = self._neurons()
        return Network(self._spec, self._layers)

    @property
    def _has_bias(self) -> bool:
        """Of hidden layers."""
        return self._normalisation == "none" and not self._bare

    def _linear(self, name: str, n_outputs: int, *, bias: bool) -> None:
        self._check_size(name, n_outputs * prod(self._shape))
        if len(self._shape) > 1:
            self._layers[f"{name}_flatten"] = nn.Flatten()
        self._layers[name] = nn.Linear(prod(self._shape), n_outputs, bias=bias, device="meta")
        self._shape = (n_outputs,)

    def _end_hidden(self, name: str) -> None:
        """Normalise, where that is wanted, and add the neurons and their axons."""
        if self._normalisation != "none":
            self._layers[f"{name}_norm"] = self._norm(f"{name}_norm", n_channels=self._shape[0])
        self._layers[f"{name}_neurons"] = neurons = self._neurons()
        if isinstance(neurons, Spiking) and neurons.neuron.learns_delays:
            self._layers[f"{name}_axons"] = Axons(self._shape[0])

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
