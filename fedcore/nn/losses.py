"""The client's loss, by readout: mean cross-entropy over the batch, in nats.

Labels are class indices, int64 [batch], or class probabilities, float [batch, class]; an attacker
that does not know the labels optimises the latter (Zhu et al. 2019, arXiv 1906.08935,
Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from fedcore.plan import ModelSpec

__all__ = ["LOSSES", "Loss", "loss_of"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits, labels) -> scalar."""


def _of_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """Of logits [batch, class]: the mean membrane or the spike counts."""
    return F.cross_entropy(logits, labels)


def _per_step(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over time of each step's own cross-entropy, of logits [time, batch, class].

    L_TET of Deng et al. 2022 (temporal efficient training, arXiv 2202.11946), without L_MSE.
    """
    repeated = labels.expand(len(logits), *labels.shape)
    return F.cross_entropy(logits.flatten(0, 1), repeated.flatten(0, 1))


LOSSES: dict[str, Loss] = {
    "membrane_mean": _of_mean,
    "per_step": _per_step,
    "spike_count": _of_mean,
}


def loss_of(spec: ModelSpec) -> Loss:
    """The loss that belongs to a model's readout."""
    return LOSSES[spec.readout]
