"""Fully connected layers; takes inputs of any shape and flattens them."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.errors import ConfigError
from fedcore.nn.models.architecture import Normalising
from fedcore.nn.models.network import Network
from fedcore.plan import ModelSpec

__all__ = ["Mlp"]


@dataclass(frozen=True, kw_only=True)
class Mlp(Normalising):
    """Hidden layers "hidden1", "hidden2", ... and the readout.

    Attributes:
        hidden: neurons of each hidden layer; empty for a linear model.
    """

    hidden: tuple[int, ...] = (256,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(n < 1 for n in self.hidden):
            raise ConfigError(f"hidden must be sizes >= 1; got {self.hidden}")

    def build(self, spec: ModelSpec) -> Network:
        """The network; every input shape fits."""
        layers = self.layers(spec)
        for i, n_outputs in enumerate(self.hidden, start=1):
            layers.dense(f"hidden{i}", n_outputs=n_outputs)
        return layers.finish()
