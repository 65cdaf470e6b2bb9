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
from testbed.cramer_rao import Bound, Sent, bound_behind, inverse_diagonal
from testbed.mechanism import Mechanism

__all__ = ["Spectrum", "input_spectrum", "why_no_jacobian"]

_CHUNK = 16
_NOTHING = Missing(why="nothing was said about noise")


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The Jacobian of an update on some input values.

    Attributes:
        of: "raw" inputs under direct coding, otherwise the "encoded" train.
        n_inputs: values of the whole batch.
        singular_values: on the drawn values, descending, float64 [value].
        inverse_information: diagonal of (J J^T)^-1 on them, [value]: times the variance of
            Gaussian noise on the gradient it bounds each value's squared error from below, see
            `testbed.cramer_rao`. Missing where the gradient does not move with some direction.
        bound: the same behind what the client's defences do.
    """

    of: str
    n_inputs: int
    singular_values: np.ndarray
    inverse_information: np.ndarray | Missing
    bound: Bound | Missing

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
    mechanism: Mechanism | Missing = _NOTHING,
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
        mechanism: what the client's defences leave to chance.
    """
    if why := why_no_jacobian(plan):
        return Missing(why=why)
    is_raw = plan.encoding.name == "direct"
    at = to_tensor(inputs if is_raw else encoded_input).float()
    chosen = np.sort(rng.permutation(at.numel())[:n_directions])
    step = plan.training.learning_rate if plan.training.update == "delta" else 1.0
    rows = step * _jacobian(plan, weights, at, to_tensor(labels), chosen=chosen)
    gram = rows @ rows.T
    bound: Bound | Missing
    if isinstance(mechanism, Missing):
        bound = mechanism
    else:
        update, examples = _gradients(plan, weights, at, to_tensor(labels))
        sizes = tuple(tensor.size for tensor in weights.values())
        bound = bound_behind(
            mechanism,
            Sent(rows=rows, update=step * update, sizes=sizes),
            examples=step * examples,
            owners=np.unravel_index(chosen, at.shape)[0 if is_raw else 1],
        )
    return Spectrum(
        of="raw" if is_raw else "encoded",
        n_inputs=at.numel(),
        singular_values=np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))[::-1],
        inverse_information=inverse_diagonal(gram),
        bound=bound,
    )


def _jacobian(
    plan: RoundPlan, weights: TensorMap, at: Tensor, labels: Tensor, *, chosen: np.ndarray
) -> np.ndarray:
    """Rows: the gradient's derivative in each chosen value, float64 [value, parameter]."""
    network, params = build(plan.model), to_tensors(weights)

    def update(x: Tensor) -> Tensor:
        found = gradient(network, params, _train(plan, x), labels, create_graph=True)
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
    return rows.double().numpy()


def _gradients(
    plan: RoundPlan, weights: TensorMap, at: Tensor, labels: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Of the batch, float64 [parameter], and of each example alone, [example, parameter]."""
    network, params, train = build(plan.model), to_tensors(weights), _train(plan, at)
    everything = slice(None), *(slice(i, i + 1) for i in range(len(labels)))
    found = [gradient(network, params, train[:, own], labels[own]) for own in everything]
    flat = [torch.cat([tensor.flatten() for tensor in one.values()]) for one in found]
    stacked = torch.stack(flat).double().numpy()
    return stacked[0], stacked[1:]


def _train(plan: RoundPlan, at: Tensor) -> Tensor:
    """What the network receives, [time, batch, feature...]."""
    return at.expand(plan.encoding.n_steps, *at.shape) if plan.encoding.name == "direct" else at
