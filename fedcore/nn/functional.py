"""Logits, loss and gradient as functions of the weights: client and attacker call these same ones.

Everywhere `params` maps a parameter's name to its tensor, `inputs` is [time, batch, feature...],
and `labels` is int64 [batch] or, as probabilities, float [batch, class].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedcore.defences.noise import NoiseSource
from fedcore.nn.arrays import to_tensor
from fedcore.nn.losses import loss_of
from fedcore.nn.models import READOUT
from fedcore.nn.models.network import Network, Run
from fedcore.nn.models.normalisation import moments
from fedcore.plan import ModelSpec

__all__ = [
    "Params",
    "batch_statistics",
    "draws",
    "features",
    "gradient",
    "logits",
    "loss",
    "loss_and_gradient",
    "predict",
    "run",
    "step_weights",
    "trace",
]

Params = Mapping[str, Tensor]
"""Weights by parameter name."""


def run(model: Network, params: Params, inputs: Tensor, noise: Tensor | None = None) -> Run:
    """A forward run with these weights.

    Args:
        model: the network's structure.
        params: its weights.
        inputs: [time, batch, feature...].
        noise: draws from N(0, 1), [time, batch, model.n_draws]; None takes means.
    """
    came_about: Run = torch.func.functional_call(model, dict(params), (inputs, noise), strict=True)
    return came_about


def draws(model: Network, inputs: Tensor, source: NoiseSource) -> Tensor | None:
    """What the network's random layers take from a source for these inputs; None for nothing."""
    if not model.n_draws:
        return None
    drawn = source.standard_normal((*inputs.shape[:2], model.n_draws))
    return to_tensor(drawn).float()


def logits(model: Network, params: Params, inputs: Tensor) -> Tensor:
    """What the model says: [batch, class], or [time, batch, class] for readout "per_step"."""
    return run(model, params, inputs).logits


def trace(model: Network, params: Params, inputs: Tensor) -> Tensor:
    """The output over time, [time, batch, class], from which `logits` are read."""
    return run(model, params, inputs).trace


def features(model: Network, params: Params, inputs: Tensor, *, layer: str = READOUT) -> Tensor:
    """What a layer's synapses receive at every step, [time, batch, feature...]."""
    return run(model, params, inputs).received[layer]


def batch_statistics(model: Network, params: Params, inputs: Tensor) -> dict[str, Tensor]:
    """Mean and variance of what each normalising layer receives, over steps, batch and space.

    Returns:
        "LAYER.mean" and "LAYER.variance", [channel] each, layer by layer; the form in which a model
        with normalisation "batch-eval" takes them. Empty where nothing normalises.
    """
    received = run(model, params, inputs).received
    found = {name: moments(received[name].flatten(0, 1)) for name in model.norms}
    return {
        f"{name}.{kind}": values
        for name, of_layer in found.items()
        for kind, values in of_layer._asdict().items()
    }


def step_weights(spec: ModelSpec, *, n_steps: int) -> Tensor | None:
    """How much each step's features count in the logits, float64 [time].

    With features x[t], weights W and bias b of the readout, logits = sum over t of
    c[t] (W x[t] + b). A leaky integrator's mean over time has
    c[t] = (1 + decay + ... + decay^(n_steps-1-t)) / n_steps, a conventional network 1 / n_steps.

    Returns:
        c, or None where the logits are no such sum ("per_step" has logits of every step,
        "spike_count" a threshold behind the readout).
    """
    steps = torch.arange(n_steps, dtype=torch.float64)
    if spec.readout == "per_step" or (spec.spiking and spec.readout == "spike_count"):
        return None
    if not spec.spiking:
        return torch.full_like(steps, 1 / n_steps)
    powers = torch.pow(torch.tensor(spec.neuron.decay, dtype=torch.float64), steps)
    return powers.cumsum(0).flip(0) / n_steps


def predict(model: Network, params: Params, inputs: Tensor) -> Tensor:
    """The most likely class of each example, int64 [batch]; steps of "per_step" are averaged."""
    with torch.no_grad():
        said = logits(model, params, inputs)
    return (said.mean(0) if model.spec.readout == "per_step" else said).argmax(1)


def loss(
    model: Network, params: Params, inputs: Tensor, labels: Tensor, noise: Tensor | None = None
) -> Tensor:
    """Mean loss of the batch, a scalar, with what the network adds to it; `noise` as in `run`."""
    came_about = run(model, params, inputs, noise)
    return loss_of(model.spec)(came_about.logits, labels) + came_about.penalty


def gradient(
    model: Network,
    params: Params,
    inputs: Tensor,
    labels: Tensor,
    noise: Tensor | None = None,
    *,
    create_graph: bool = False,
) -> dict[str, Tensor]:
    """The gradient of the mean loss in every parameter: what FedSGD sends.

    Args:
        model: the network's structure.
        params: where the gradient is taken.
        inputs: [time, batch, feature...].
        labels: int64 [batch] or float [batch, class].
        noise: as in `run`.
        create_graph: False computes numbers, as a client does. True keeps them differentiable in
            params, inputs and labels, as an attacker needs, and is required under torch.func's
            vmap and grad, e.g. over victims with stacked params, inputs and labels.

    Returns:
        By name, in the order and the shapes of `params`.
    """
    if create_graph:
        grads: dict[str, Tensor] = torch.func.grad(
            lambda weights: loss(model, weights, inputs, labels, noise)
        )(dict(params))
        return grads
    return loss_and_gradient(model, params, inputs, labels, noise)[1]


def loss_and_gradient(
    model: Network, params: Params, inputs: Tensor, labels: Tensor, noise: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss of the batch and its gradient, both as numbers; arguments as in `gradient`."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
    here = loss(model, leaves, inputs.detach(), labels.detach(), noise)
    found = torch.autograd.grad(here, list(leaves.values()))
    return here.detach(), dict(zip(leaves, found, strict=True))
