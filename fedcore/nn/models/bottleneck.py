"""A variational bottleneck in front of another network's readout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from fedcore.errors import ConfigError
from fedcore.nn.models import READOUT, build
from fedcore.nn.models.architecture import Architecture
from fedcore.nn.models.network import Network, Sampling
from fedcore.plan import ModelSpec

__all__ = ["RANDOM_LAYERS", "Bottleneck"]

RANDOM_LAYERS = ("encoder", "decoder", READOUT)
"""Those whose gradients hang on the draws most."""


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Architecture):
    """PRECODE of Scheliga et al. 2022 (arXiv 2108.04725): the readout sees a random code only.

    "encoder" makes a mean and a deviation per value of the code, "code" draws it (see `Sampling`),
    and "decoder" brings it back to the size of the readout's usual input. A spiking network draws
    a code at every step. Without draws, as in evaluation, the code is its mean.

    Attributes:
        base: registered model around it.
        options: of that model.
        size: values of the code, K in the paper.
        beta: weight of the code's divergence from N(0, 1) in the loss, per nat; the mean is taken
            over examples and steps.
    """

    base: str = "convnet"
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 256
    beta: float = 1e-3

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size must be >= 1; got {self.size}")
        if not self.beta >= 0:
            raise ConfigError(f"beta must be >= 0; got {self.beta}")

    def build(self, spec: ModelSpec) -> Network:
        """The network.

        Raises:
            ConfigError: see `fedcore.nn.models.build`; or a bottleneck in a bottleneck.
        """
        base = build(replace(spec, name=self.base, options=self.options))
        if base.n_draws:
            raise ConfigError("base must be a model without a bottleneck; got 'bottleneck'")
        layers: dict[str, nn.Module] = {}
        for name, layer in base.named_children():
            if name == READOUT and isinstance(layer, nn.Linear):
                n_inputs = layer.in_features
                layers["encoder"] = nn.Linear(n_inputs, 2 * self.size, device="meta")
                layers["code"] = Sampling(size=self.size, beta=self.beta)
                layers["decoder"] = nn.Linear(self.size, n_inputs, device="meta")
            layers[name] = layer
        return Network(spec, layers)
