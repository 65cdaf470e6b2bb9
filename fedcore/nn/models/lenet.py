"""The network of deep leakage from gradients: small, and the field's usual first victim."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.nn.models.architecture import Normalising
from fedcore.nn.models.network import Network
from fedcore.plan import ModelSpec

__all__ = ["LeNet"]


@dataclass(frozen=True, kw_only=True)
class LeNet(Normalising):
    """Three 5x5 convolutions of 12 channels, padding 2, strides 2, 2 and 1, and a linear readout.

    The "LeNet" of the code of Zhu et al. 2019 (arXiv 1906.08935), which uses activation "sigmoid"
    and draws all weights from U(-0.5, 0.5) instead of our default.
    """

    def build(self, spec: ModelSpec) -> Network:
        """The network.

        Raises:
            ConfigError: the inputs are not images.
        """
        layers = self.layers(spec)
        for i, stride in enumerate((2, 2, 1), start=1):
            layers.conv(f"conv{i}", channels=12, kernel=5, stride=stride)
        return layers.finish()
