"""How far an update moves when its input moves: the Jacobian's spectrum, without any attack.

Needs torch. The update is the gradient of the mean loss before defences and codec, which only
take information away. In a spiking network the derivatives are the surrogate's.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedcore.nn.arrays import to_tensor, to_tensors
from fedcore.nn.functional import gradient
from fedcore.nn.models import build
from fedcore.plan import RoundPlan
from fedcore.types import Missing, TensorMap

__all__ = ["Spectrum", "input_spectrum", "why_no_jacobian"]

_CHUNK = 16
_ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The Jacobian of an update on some input values.

    Attributes:
        of: "raw" inputs under direct coding, otherwise the "encoded" train.
        n_inputs: values of the whole batch.
        singular_values: on the drawn values, descending, float64 [value].
        inverse_information: diagonal of (J J^T)^-1 on them, [value]: times the variance of
            Gaussian noise on the update it bounds each value's squared error from below
            (Cramer-Rao, for unbiased estimators). The other values count as known, which can only
            lower the bound. Missing where the update does not move with some direction.
    """

    of: str
    n_inputs: int
    singular_values: np.ndarray
    inverse_information: np.ndarray | Missing

    @property
    def effective_rank(self) -> float:
        """The exponential of the entropy of the singular values' shares (Roy and Vetterli 2007)."""
        total = self.singular_values.sum()
        if total == 0:
            return 0.0
        shares = self.singular_values[self.singular_values > 0] / total
        return float(np.exp(-(shares * np.log(shares)).sum()))


def why_no_jacobian(plan: RoundPlan) -> str:
    """Why this update's Jacobian is not that of one gradient, or ""."""
    if plan.training.rule != "backprop":
        return f"the learning rule {plan.training.rule!r} sends no gradient of the loss"
    if plan.training.local_steps > 1:
        return "the update is of several local steps, not one gradient"
    return ""


def input_spectrum(
    plan: RoundPlan,
    weights: TensorMap,
    *,
    inputs: np.ndarray,
    encoded_input: np.ndarray,
    labels: np.ndarray,
    n_directions: int,
    rng: np.random.Generator,
) -> Spectrum | Missing:
    """The spectrum on `n_directions` input values drawn without replacement.

    Args:
        plan: of the round.
        weights: that the update was computed from.
        inputs: raw, [batch, feature...].
        encoded_input: [time, batch, feature...].
        labels: int64 [batch].
        n_directions: input values; where the batch has fewer, all.
        rng: draws them.
    """
    if why := why_no_jacobian(plan):
        return Missing(why=why)
    is_raw = plan.encoding.name == "direct"
    at = to_tensor(inputs if is_raw else encoded_input).float()
    chosen = np.sort(rng.permutation(at.numel())[:n_directions])
    rows = _jacobian(plan, weights, at, to_tensor(labels), chosen=chosen)
    if plan.training.update == "delta":
        rows = rows * plan.training.learning_rate
    return _spectrum(rows, of="raw" if is_raw else "encoded", n_inputs=at.numel())


def _jacobian(
    plan: RoundPlan, weights: TensorMap, at: Tensor, labels: Tensor, *, chosen: np.ndarray
) -> Tensor:
    """Rows: the update's derivative in each chosen value, float32 [value, parameter]."""
    network, params = build(plan.model), to_tensors(weights)
    is_raw = plan.encoding.name == "direct"

    def update(x: Tensor) -> Tensor:
        train = x.expand(plan.encoding.n_steps, *x.shape) if is_raw else x
        found = gradient(network, params, train, labels, create_graph=True)
        return torch.cat([tensor.flatten() for tensor in found.values()])

    def along(direction: Tensor) -> Tensor:
        derivative: Tensor = torch.func.jvp(update, (at,), (direction,))[1]
        return derivative

    units = torch.zeros(len(chosen), at.numel())
    units[torch.arange(len(chosen)), torch.from_numpy(chosen)] = 1
    with warnings.catch_warnings():
        # torch's forward mode compiles its own formulae with what torch itself deprecates.
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
        rows: Tensor = torch.func.vmap(along, chunk_size=_CHUNK)(units.reshape(-1, *at.shape))
    return rows


def _spectrum(rows: Tensor, *, of: str, n_inputs: int) -> Spectrum:
    """From the Gram matrix of the rows, in float64."""
    gram = (rows.double() @ rows.double().T).numpy()
    squares, vectors = np.linalg.eigh(gram)
    squares = np.maximum(squares, 0)
    values = np.sqrt(squares)
    n_blind = int((values <= values.max() * len(values) * _ROUNDING).sum())
    inverse: np.ndarray | Missing
    if n_blind:
        inverse = Missing(
            why=f"the update does not move with {n_blind} of {len(values)} directions"
        )
    else:
        inverse = (vectors**2 / squares).sum(axis=1)
    return Spectrum(
        of=of, n_inputs=n_inputs, singular_values=values[::-1], inverse_information=inverse
    )
