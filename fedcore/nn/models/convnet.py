"""Strided convolutions: a small network that learns digits well as either twin."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.errors import ConfigError
from fedcore.nn.models.architecture import Normalising
from fedcore.nn.models.network import Network
from fedcore.plan import ModelSpec

__all__ = ["ConvNet"]


@dataclass(frozen=True, kw_only=True)
class ConvNet(Normalising):
    """5x5 convolutions with padding 2 and stride 2, and a linear readout.

    Attributes:
        channels: of each convolution.
    """

    channels: tuple[int, ...] = (16, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels or any(n < 1 for n in self.channels):
            raise ConfigError(f"channels must be sizes >= 1, at least one; got {self.channels}")

    def build(self, spec: ModelSpec) -> Network:
        """The network.

        Raises:
            ConfigError: the inputs are not images.
        """
        layers = self.layers(spec)
        for i, channels in enumerate(self.channels, start=1):
            layers.conv(f"conv{i}", channels=channels, kernel=5, stride=2)
        return layers.finish()
