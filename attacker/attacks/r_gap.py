"""Recursive inversion of a conventional network's gradient, layer after layer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from attacker.attacks.base import Attack, Budget, NetworkOf, Progress, refusal
from attacker.gradients import batch_size_of, gradient_of, norm_of
from attacker.layer_systems import (
    Solved,
    n_entries,
    outputs_of,
    received_by_conv,
    received_by_linear,
    slopes_behind_conv,
)
from attacker.objectives import squared_distance
from fedcore.nn.arrays import to_array, to_tensors
from fedcore.nn.functional import gradient, run
from fedcore.nn.models import READOUT, build
from fedcore.nn.models.network import Network, Sampling
from fedcore.types import Knowledge, Observation, Reconstruction, TensorMap

__all__ = ["RGap"]

_EDGE = 1e-12  # how near to saturation an output is still told from it
_MOST_ENTRIES = 1 << 26  # of a system of equations: half a GiB, and minutes
_ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.Tanh)


@dataclass(frozen=True, kw_only=True)
class RGap(Attack):
    """R-GAP of Zhu and Blaschko 2021 (arXiv 2010.07733): no search, but systems of equations.

    The slopes of the loss in the logits are the gradient in the readout's bias. From the last
    layer to the first, slopes and gradient give what the layer received; that is what the
    activation in front put out, whose derivative takes the slopes on, and whose inverse gives the
    outputs of the layer in front. Where a ReLU is off, an output is not known.

    It takes batches of one in conventional networks of convolutions, fully connected layers and
    activations. No bias but the readout's is needed, so that a first layer without one hides
    nothing. A bottleneck's draws do not matter: the gradient in its encoder's bias is the slopes
    there, whatever was drawn behind it.

    The certificate holds, for every layer, "missing <layer>": values that it received less the
    rank of their equations. Where that is above 0 the input is a guess. The loss is the relative
    squared distance of the candidate's gradient from the observed one, without any draws.

    One restart, whatever the budget: nothing is drawn.
    """

    name: ClassVar[str] = "r-gap"

    def reconstruct(
        self,
        seen: Sequence[Observation],
        known: Sequence[Knowledge],
        *,
        rng: np.random.Generator,
        budget: Budget,
        progress: Progress,
        network_of: NetworkOf = build,
    ) -> list[Reconstruction]:
        """See `Attack`. Draws nothing; progress counts victims."""
        del rng, known
        losses = np.full(len(seen), np.inf)
        answers = []
        for i, one in enumerate(seen):
            network, observed = network_of(one.plan.model), gradient_of(one)
            why = _objection(one, observed, network)
            answer = (
                refusal(one, attack=self.name, budget=budget, why=why)
                if why
                else _answer(one, observed, network)
            )
            answers.append(answer)
            losses[i] = answer.losses[0]
            progress(i + 1, len(seen), losses)
        return answers


def _objection(seen: Observation, observed: TensorMap, network: Network) -> str:
    """Why this victim cannot be read, in one line, or ""."""
    spec, encoding = seen.plan.model, seen.plan.encoding
    if batch_size_of(seen) > 1:
        return f"the gradient is the mean of {batch_size_of(seen)} examples; this attack reads one"
    if spec.spiking:
        return "a spiking layer's slopes do not follow from its spikes; 'peeling' reads those"
    if encoding.name != "direct":
        return (
            f"encoding {encoding.name!r} sends another input at every step; this attack reads one"
        )
    if norm_of(dict(observed)) == 0:
        return "every gradient in the update is zero: there is nothing to solve for"
    for name in (READOUT, *_in_front_of_draws(network)):
        if not _has(observed, f"{name}.bias"):
            return f"the gradient in the bias of layer {name!r} is missing: slopes begin with it"
    sizes = _sizes(network, _double(seen.weights))
    for name, layer in network.named_children():
        if not isinstance(layer, (nn.Conv2d, nn.Linear, nn.Flatten, Sampling, *_ACTIVATIONS)):
            return (
                f"layer {name!r} ({type(layer).__name__}) is none that this attack can go through"
            )
        if isinstance(layer, nn.Conv2d) and n_entries(layer, sizes[name]) > _MOST_ENTRIES:
            return f"layer {name!r} would need more than {_MOST_ENTRIES} coefficients in its system"
    return ""


def _answer(seen: Observation, observed: TensorMap, network: Network) -> Reconstruction:
    """Solve, and measure what came out."""
    started_ns = time.monotonic_ns()
    x, missing = _solve(network, _double(seen.weights), _double(observed))
    candidate = x.reshape(seen.plan.model.input_shape).clamp(0, 1).float()
    label = observed[f"{READOUT}.bias"].argmin()
    loss = _loss(seen, observed, network, candidate, label=int(label))
    return Reconstruction(
        ticket=seen.ticket,
        sha256=seen.sha256,
        attack=RGap.name,
        candidates=to_array(candidate[None, None]),
        labels=np.array([[label]]),
        losses=loss,
        loss_curves=loss[:, None],
        n_iterations=0,
        duration_s=(time.monotonic_ns() - started_ns) * 1e-9,
        labels_from="rule",
        certificate={f"missing {name}": float(n) for name, n in missing.items()},
    )


def _solve(
    network: Network, weights: Mapping[str, Tensor], observed: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, int]]:
    """The input, and for every layer how many values its equations left open."""
    sizes = _sizes(network, weights)
    x = slopes = outputs = _unknown(network.spec.n_classes)
    missing, error = {}, 0.0
    for name, layer in reversed(list(network.named_children())):
        if isinstance(layer, _ACTIVATIONS):
            derivative, outputs = _undone(layer, x, error=error)
            slopes = slopes * derivative
        elif isinstance(layer, Sampling):
            slopes = outputs = _unknown(2 * layer.size)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            if isinstance(layer, nn.Linear) and _has(observed, f"{name}.bias"):
                slopes = observed[f"{name}.bias"]
            weight = weights[f"{name}.weight"]
            bias = weights.get(f"{name}.bias", torch.zeros(len(weight)))
            solved, slopes = _gone_through(
                layer,
                weight=weight,
                gradient=observed[f"{name}.weight"],
                slopes=slopes,
                outputs=outputs - bias.repeat_interleave(len(outputs) // len(bias)),
                size=sizes[name],
            )
            x = outputs = solved.x.flatten()
            missing[name], error = solved.n_missing, solved.error
    return x, missing


def _gone_through(
    layer: nn.Conv2d | nn.Linear,
    *,
    weight: Tensor,
    gradient: Tensor,
    slopes: Tensor,
    outputs: Tensor,
    size: tuple[int, ...],
) -> tuple[Solved, Tensor]:
    """What a layer received, and the loss's slopes in it, [value]."""
    if isinstance(layer, nn.Linear):
        return received_by_linear(gradient, slopes), slopes @ weight
    shape = (layer.out_channels, *outputs_of(layer, size))
    solved = received_by_conv(
        layer,
        weight=weight,
        gradient=gradient,
        slopes=slopes.reshape(shape),
        outputs=outputs.reshape(shape),
        size=size,
    )
    behind = slopes_behind_conv(layer, weight, slopes.reshape(shape), size=size)
    return solved, behind.flatten()


def _undone(activation: nn.Module, x: Tensor, *, error: float) -> tuple[Tensor, Tensor]:
    """Of what an activation put out: its derivative there, and what it received, NaN if unknown."""
    if isinstance(activation, nn.ReLU):
        is_on = x > max(-2 * float(x.min()), error)  # what lies below 0 is an error, too
        return is_on.to(x), torch.where(is_on, x, torch.nan)
    if isinstance(activation, nn.Sigmoid):
        return x * (1 - x), x.logit(_EDGE)
    return 1 - x.square(), x.clamp(_EDGE - 1, 1 - _EDGE).atanh()


def _unknown(n: int) -> Tensor:
    return torch.full((n,), torch.nan, dtype=torch.float64)


def _has(observed: Mapping[str, Any], name: str) -> bool:
    """Whether a gradient is in an update, and was not withheld."""
    return name in observed and bool(observed[name].any())


def _in_front_of_draws(network: Network) -> list[str]:
    """Names of the layers whose outputs are what something is drawn from."""
    layers = list(network.named_children())
    return [
        name
        for (name, _), (_, following) in itertools.pairwise(layers)
        if isinstance(following, Sampling)
    ]


def _sizes(network: Network, weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of what every layer receives, without time and batch."""
    nothing = torch.zeros(1, 1, *network.spec.input_shape, dtype=torch.float64)
    received = run(network, weights, nothing).received
    return {name: tuple(x.shape[2:]) for name, x in received.items()}


def _loss(
    seen: Observation, observed: TensorMap, network: Network, candidate: Tensor, *, label: int
) -> np.ndarray:
    """Relative squared distance of the candidate's gradient from the observed one, [1]."""
    n_steps = seen.plan.encoding.n_steps
    inputs = candidate.expand(n_steps, 1, *candidate.shape)
    found = gradient(network, to_tensors(seen.weights), inputs, torch.tensor([label]))
    return to_array(squared_distance(found, to_tensors(observed)).reshape(1))


def _double(tensors: TensorMap) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in to_tensors(tensors).items()}
