"""Backpropagation (through time): FedSGD's gradient, or FedAvg's and FedProx's local SGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.nn.functional import gradient
from fedcore.nn.learning_rules.base import Batch, LearningRule
from fedcore.nn.models.network import Network
from fedcore.plan import Training

__all__ = ["Backprop", "descend"]


@dataclass(frozen=True, kw_only=True)
class Backprop(LearningRule):
    """The exact gradient of the loss, with surrogates where neurons spike. Remembers nothing."""

    def update(
        self,
        model: Network,
        params: Mapping[str, Tensor],
        batches: Sequence[Batch],
        training: Training,
        carry: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The gradient of one batch, or new minus old weights after local steps of SGD.

        A local step minimises loss(w) + mu/2 |w - w_global|^2 (Li et al. 2020, "FedProx",
        arXiv 1812.06127, Eq. 2); with mu = 0 it is FedAvg's (McMahan et al. 2017).

        Raises:
            ConfigError: the number of batches is not `training.local_steps`.
        """
        if len(batches) != training.local_steps:
            raise ConfigError(
                f"got {len(batches)} batches for training.local_steps = {training.local_steps}; "
                "give one batch per local step"
            )
        if training.update == "gradient":
            return gradient(model, params, *batches[0]), dict(carry)
        local = dict(params)
        for batch in batches:
            local = descend(
                params,
                local,
                gradient(model, local, *batch),
                learning_rate=training.learning_rate,
                proximal_mu=training.proximal_mu,
            )
        return {name: local[name] - old for name, old in params.items()}, dict(carry)


def descend(
    params: Mapping[str, Tensor],
    local: Mapping[str, Tensor],
    slope: Mapping[str, Tensor],
    *,
    learning_rate: float | Tensor,
    proximal_mu: float | Tensor,
) -> dict[str, Tensor]:
    """Weights after a local step.

    Args:
        params: the global weights.
        local: where the step begins.
        slope: gradient of the loss there.
        learning_rate: length of the step.
        proximal_mu: pull to the global weights.
    """
    return {
        name: w - learning_rate * (slope[name] + proximal_mu * (w - params[name]))
        for name, w in local.items()
    }
