"""A short VGG: pairs of 3x3 convolutions, each pair halving the image."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.errors import ConfigError
from fedcore.nn.models.architecture import Normalising
from fedcore.nn.models.network import Network
from fedcore.plan import ModelSpec

__all__ = ["VggSmall"]


@dataclass(frozen=True, kw_only=True)
class VggSmall(Normalising):
    """Blocks of two 3x3 convolutions, the second one pooled, and a linear readout.

    Without normalisation the spiking twin needs an `init_gain` above 1 for spikes to reach the last
    block.

    Attributes:
        channels: of each block; an image needs at least 2^blocks pixels on each side.
    """

    channels: tuple[int, ...] = (64, 128, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels or any(n < 1 for n in self.channels):
            raise ConfigError(f"channels must be sizes >= 1, at least one; got {self.channels}")

    def build(self, spec: ModelSpec) -> Network:
        """The network.

        Raises:
            ConfigError: the inputs are not images, or too small for the blocks.
        """
        layers = self.layers(spec)
        for i, channels in enumerate(self.channels, start=1):
            layers.conv(f"block{i}a", channels=channels, kernel=3)
            layers.conv(f"block{i}b", channels=channels, kernel=3, pool=True)
        return layers.finish()
