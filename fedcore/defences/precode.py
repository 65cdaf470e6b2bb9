"""A random bottleneck in the network that everybody trains."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedcore.defences.base import Defence
from fedcore.plan import ModelSpec

__all__ = ["Precode"]

_MODEL = "bottleneck"


@dataclass(frozen=True, kw_only=True)
class Precode(Defence):
    """PRECODE of Scheliga et al. 2022 (arXiv 2108.04725): a variational bottleneck.

    It makes model "bottleneck" of whatever model a plan had. Weights of its own go with it, so the
    network is no secret; what a client draws is. Gradients of the bottleneck and of the readout
    then depend on that draw.

    Attributes:
        size: values of the code, K in the paper.
        beta: weight of the code's divergence from N(0, 1) in the loss, per nat.
    """

    size: int = 256
    beta: float = 1e-3

    def model(self, spec: ModelSpec) -> ModelSpec:
        """The bottleneck around `spec`."""
        options = {
            "base": spec.name,
            "options": spec.options,
            "size": self.size,
            "beta": self.beta,
        }
        return replace(spec, name=_MODEL, options=options)
