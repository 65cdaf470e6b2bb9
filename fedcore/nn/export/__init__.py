"""ONNX graphs of training steps and inference, for clients that run onnxruntime without torch.

What the client's torch code computes (`fedcore.nn.functional`, gradients and all) is traced, and
the trace is written in ONNX operator by operator. So a new model, neuron, loss or surrogate needs
nothing here as long as torch's operators behind it are in the table of `operators`; whatever is
not, is refused by name where the experiment is planned.

Every graph takes all parameters under their own names and "inputs" [time, batch, feature...]. The
number of steps is fixed, that of examples is not. A network that draws takes "noise" [time, batch,
draw] in training, too. Graphs are self-contained, made of ONNX's standard operators, and the same
spec gives the same bytes with the same versions of torch and onnx.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fedcore.defences.base import chain
from fedcore.errors import ConfigError
from fedcore.graphs import (
    FORMAT,
    FORMAT_KEY,
    LAYERS_KEY,
    MODEL_KEY,
    GraphKind,
    layers_to_text,
    training_kind,
)
from fedcore.nn.export.int8 import int8_network
from fedcore.nn.export.layers import graph_layers
from fedcore.nn.export.tracing import trace
from fedcore.nn.export.translation import translate
from fedcore.nn.functional import loss_and_gradient, run
from fedcore.nn.learning_rules.backprop import descend
from fedcore.nn.models import build
from fedcore.nn.models.network import Network
from fedcore.plan import Choice, ModelSpec, Training
from fedcore.strict import canonical_json, digest, parse

__all__ = [
    "export",
    "export_inference",
    "export_int8",
    "export_local_step",
    "export_training",
    "refusal",
]

Named = dict[str, Tensor]


def export_training(model: ModelSpec, *, n_steps: int, dtype: torch.dtype = torch.float32) -> bytes:
    """The loss and its gradients, as `fedcore.nn.functional.gradient` has them.

    Inputs are the parameters, "inputs", "labels" int64 [batch] and perhaps "noise"; outputs "loss",
    a scalar, and "gradient/PARAMETER" in the order of the parameters.

    Args:
        model: the network that is trained.
        n_steps: of time.
        dtype: of everything but labels.

    Raises:
        ConfigError: it cannot be exported; the message says what is in the way.
    """
    network = build(model)

    def step(tensors: Named) -> Named:
        params = _params(network, tensors)
        loss, slopes = loss_and_gradient(network, params, *_batch(network, tensors))
        return {"loss": loss, **{f"gradient/{name}": slope for name, slope in slopes.items()}}

    return _export("training", network, step, _inputs(network, n_steps, dtype))


def export_local_step(
    model: ModelSpec, *, n_steps: int, dtype: torch.dtype = torch.float32
) -> bytes:
    """One step of local SGD, as `fedcore.nn.learning_rules.backprop.descend` makes it.

    Inputs are those of `export_training`, "global/PARAMETER" for every parameter and the scalars
    "learning_rate" and "proximal_mu"; outputs "loss", before the step, and "next/PARAMETER".

    Args:
        model: the network that is trained.
        n_steps: of time.
        dtype: of everything but labels.

    Raises:
        ConfigError: see `export_training`.
    """
    network = build(model)

    def step(tensors: Named) -> Named:
        params = _params(network, tensors)
        loss, slopes = loss_and_gradient(network, params, *_batch(network, tensors))
        following = descend(
            _params(network, tensors, prefix="global/"),
            params,
            slopes,
            learning_rate=tensors["learning_rate"],
            proximal_mu=tensors["proximal_mu"],
        )
        return {"loss": loss, **{f"next/{name}": weights for name, weights in following.items()}}

    inputs = _inputs(network, n_steps, dtype)

    def with_step(n_examples: int) -> Named:
        params = _params(network, inputs(n_examples))
        return {
            **inputs(n_examples),
            **{f"global/{name}": tensor for name, tensor in params.items()},
            "learning_rate": torch.zeros((), dtype=dtype),
            "proximal_mu": torch.zeros((), dtype=dtype),
        }

    return _export("local_step", network, step, with_step)


def export_inference(
    model: ModelSpec, *, n_steps: int, dtype: torch.dtype = torch.float32
) -> bytes:
    """Logits without draws, and what every layer with parameters receives.

    Inputs are the parameters and "inputs"; outputs "logits", [batch, class] or [time, batch,
    class], "received/LAYER" [time, batch, feature...] layer by layer, and "penalty", a scalar, of a
    network that draws.

    Args:
        model: the network.
        n_steps: of time.
        dtype: of everything.

    Raises:
        ConfigError: see `export_training`.
    """
    return _export_forward("inference", build(model), _inputs(build(model), n_steps, dtype))


def export_int8(model: ModelSpec, *, n_steps: int) -> bytes:
    """The same as `export_inference` of the network's int8 form, see `fedcore.nn.export.int8`.

    Raises:
        ConfigError: there is none, or it cannot be exported.
    """
    network = int8_network(build(model))
    return _export_forward("int8", network, _inputs(network, n_steps, torch.float32))


def _export_forward(name: str, network: Network, inputs: Callable[[int], Named]) -> bytes:
    def say(tensors: Named) -> Named:
        came_about = run(network, _params(network, tensors), tensors["inputs"])
        received = {f"received/{name}": x for name, x in came_about.received.items()}
        if isinstance(penalty := came_about.penalty, Tensor):
            received["penalty"] = penalty
        return {"logits": came_about.logits, **received}

    def used(n_examples: int) -> Named:
        return {n: x for n, x in inputs(n_examples).items() if n not in ("labels", "noise")}

    return _export(name, network, say, used)


def export(kind: GraphKind, model: ModelSpec, *, n_steps: int) -> bytes:
    """A graph for clients, in float32. A process traces the same one once: that takes seconds.

    Args:
        kind: which of the functions above makes it.
        model: the network.
        n_steps: of time.

    Raises:
        ConfigError: see `export_training`.
    """
    return _traced_once(kind, canonical_json(model), n_steps)


@lru_cache(maxsize=16)
def _traced_once(kind: GraphKind, model: bytes, n_steps: int) -> bytes:
    return _EXPORTS[kind](parse(ModelSpec, json.loads(model), where="model"), n_steps=n_steps)


_EXPORTS: dict[GraphKind, Callable[..., bytes]] = {
    "training": export_training,
    "local_step": export_local_step,
    "inference": export_inference,
    "int8": export_int8,
}


def refusal(
    model: ModelSpec, training: Training, defences: Sequence[Choice], *, n_steps: int
) -> str | None:
    """What keeps a client from training on exported graphs, in one line; None if nothing does.

    Defences on example gradients are no obstacle: the training graph takes batches of one.

    Args:
        model: as the defences have it.
        training: of the arm.
        defences: likewise.
        n_steps: of time.

    Raises:
        ConfigError: no such model or defence at all.
    """
    if training.rule != "backprop":
        return f"learning rule {training.rule!r} is not exported to ONNX, only 'backprop' is"
    for choice, defence in zip(defences, chain(defences).steps, strict=True):
        if "informed_update" in defence.hooks:
            return (
                f"defence {choice.name!r} asks how the network answers to its inputs, which is not "
                "exported to ONNX"
            )
    try:
        export(training_kind(training), model, n_steps=n_steps)
    except ConfigError as error:
        return f"model {model.name!r} cannot be exported to ONNX: {error}"
    return None


def _inputs(network: Network, n_steps: int, dtype: torch.dtype) -> Callable[[int], Named]:
    """Parameters and a batch, of which only names, shapes and dtypes count."""

    def of_size(n_examples: int) -> Named:
        lead = (n_steps, n_examples)
        tensors = {
            name: torch.zeros(p.shape, dtype=dtype if p.is_floating_point() else p.dtype)
            for name, p in network.named_parameters()
        }
        tensors["inputs"] = torch.zeros(*lead, *network.spec.input_shape, dtype=dtype)
        tensors["labels"] = torch.zeros(n_examples, dtype=torch.int64)
        if network.n_draws:
            tensors["noise"] = torch.zeros(*lead, network.n_draws, dtype=dtype)
        return tensors

    return of_size


def _params(network: Network, tensors: Named, *, prefix: str = "") -> Named:
    return {name: tensors[prefix + name] for name, _ in network.named_parameters()}


def _batch(network: Network, tensors: Named) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs, labels as probabilities, and draws."""
    inputs, labels = tensors["inputs"], tensors["labels"]
    classes = torch.arange(network.spec.n_classes)
    return inputs, (labels[:, None] == classes).to(inputs.dtype), tensors.get("noise")


def _export(
    name: str,
    network: Network,
    function: Callable[[Named], Named],
    inputs: Callable[[int], Named],
) -> bytes:
    metadata = {
        FORMAT_KEY: FORMAT,
        MODEL_KEY: digest(network.spec),
        LAYERS_KEY: layers_to_text(graph_layers(network)),
    }
    return translate(trace(function, inputs), name=name, metadata=metadata)
