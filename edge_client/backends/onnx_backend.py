"""The ONNX backend: exported graphs on onnxruntime and numpy, for boards without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import onnxruntime

from edge_client.backends.base import Fetch, no_artefacts
from edge_client.backends.onnx_graph import check_graph
from fedcore.defences.base import chain
from fedcore.defences.noise import NoiseSource
from fedcore.devices import Deployment
from fedcore.energy import DIVERGED, Evaluation
from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.graphs import (
    FORMAT,
    FORMAT_KEY,
    LAYERS_KEY,
    MODEL_KEY,
    GraphKind,
    GraphLayer,
    layers_from_text,
    training_kind,
)
from fedcore.operations import LayerCount
from fedcore.plan import RoundPlan
from fedcore.strict import digest
from fedcore.tensors import schema_of
from fedcore.types import Missing, TensorMap
from hardware.opcount import LayerTable, count_layer

__all__ = ["OnnxBackend"]

Arrays = dict[str, np.ndarray]

_CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3  # ONNX Runtime's warnings are about its own optimiser
_NO_PARAMETERS = frozenset({"inputs", "labels", "noise"})


class OnnxBackend:
    """See `edge_client.backends.base.Backend`.

    Args:
        threads: of each operator; 0 takes one while the plan is reproducible, else ONNX Runtime's
            own number.
        accelerator: an execution provider of ONNX Runtime that goes first; "" is the CPU alone.

    Raises:
        ConfigError: this ONNX Runtime has no such provider.
    """

    deploys = False
    _plan: RoundPlan
    _weights: TensorMap
    _trainer: _Graph
    _judge: _Graph

    def __init__(self, *, threads: int = 0, accelerator: str = "") -> None:
        there = onnxruntime.get_available_providers()
        if accelerator and accelerator not in there:
            raise ConfigError(
                f"accelerator: got {accelerator!r}, this onnxruntime has {', '.join(there)}"
            )
        self._threads = threads
        self._providers = list(dict.fromkeys([accelerator or _CPU, _CPU]))
        self._graphs: dict[tuple[str, int], _Graph] = {}  # of the last plan, by digest and threads

    def load(self, plan: RoundPlan, weights: TensorMap, *, fetch: Fetch = no_artefacts) -> None:
        """See `Backend.load`."""
        if "informed_update" in chain(plan.defences).hooks:
            raise ConfigError("the plan's defences need a network in torch; use backend 'torch'")
        self._plan, self._weights = plan, weights
        kept, self._graphs = self._graphs, {}
        self._trainer = self._graph(training_kind(plan.training), fetch, kept)
        self._judge = self._graph("inference", fetch, kept)
        expected, got = self._judge.parameters, schema_of(weights)
        if odd := sorted(n for n in expected | got if expected.get(n) != got.get(n)):
            raise UpdateError(
                Refusal.WRONG_SHAPE,
                f"the round's weights do not fit model {plan.model.name!r} in {', '.join(odd)}",
            )

    def train(
        self, inputs: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, noise: NoiseSource
    ) -> Arrays:
        """See `Backend.train`."""
        batches = [
            {"inputs": x, "labels": y, **self._trainer.draws(x, noise)}
            for x, y in zip(inputs, labels, strict=True)
        ]
        defences = chain(self._plan.defences)
        if "example_gradients" in defences.hooks:
            examples = defences.example_gradients(self._example_gradients(batches[0]))
            return {name: slopes.mean(axis=0) for name, slopes in examples.items()}
        if self._plan.training.update == "gradient":
            return self._gradient(batches[0])
        return self._descend(batches)

    def evaluate(self, inputs: np.ndarray, labels: np.ndarray) -> Evaluation:
        """See `Backend.evaluate`."""
        found = self._judge.run({**self._weights, "inputs": inputs})
        logits = found["logits"].astype(np.float64)
        steps = logits if self._plan.model.readout == "per_step" else logits[None]
        spread = _log_sum_exp(steps) - np.take_along_axis(
            steps, np.broadcast_to(labels[:, None], (*steps.shape[:2], 1)), axis=2
        )
        mean_loss = float(spread.mean()) + float(found.get("penalty", 0.0))
        return Evaluation(
            n_correct=int(np.sum(steps.mean(axis=0).argmax(axis=1) == labels)),
            n_examples=len(labels),
            mean_loss=mean_loss if np.isfinite(mean_loss) else DIVERGED,
        )

    def count(self, inputs: np.ndarray) -> tuple[LayerCount, ...] | Missing:
        """See `Backend.count`."""
        found = self._judge.run({**self._weights, "inputs": inputs})
        try:
            layers = self._judge.layers
        except ConfigError as error:
            return Missing(why=str(error))
        sent = [found[f"received/{layer.name}"] for layer in layers[1:]] + [found["logits"]]
        return tuple(
            self._count_layer(layer, found[f"received/{layer.name}"], sent=after)
            for layer, after in zip(layers, sent, strict=True)
        )

    def profile(self, inputs: np.ndarray, labels: np.ndarray) -> tuple[Deployment, ...]:
        """See `Backend.profile`; what is trained is what runs."""
        return ()

    def describe(self) -> dict[str, str]:
        """See `Backend.describe`."""
        return {
            "onnxruntime": onnxruntime.__version__,
            "onnxruntime-providers": ", ".join(self._providers),
        }

    def _gradient(self, batch: Mapping[str, np.ndarray]) -> Arrays:
        found = self._trainer.run({**self._weights, **batch})
        return {name: found[f"gradient/{name}"] for name in self._weights}

    def _example_gradients(self, batch: Mapping[str, np.ndarray]) -> Arrays:
        """The gradient of each example's own loss, [example, shape of the weight...]."""
        if self._plan.training.update != "gradient":
            raise ConfigError(
                "defences on example gradients need training.update = 'gradient'; "
                f"the plan says {self._plan.training.update!r}"
            )
        alone = []
        for i in range(len(batch["labels"])):
            one = slice(i, i + 1)
            cut = {n: a[one] if n == "labels" else a[:, one] for n, a in batch.items()}
            alone.append(self._gradient(cut))
        return {name: np.stack([slopes[name] for slopes in alone]) for name in self._weights}

    def _descend(self, batches: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
        """New minus old weights after one step of local SGD per batch."""
        training = self._plan.training
        if len(batches) != training.local_steps:
            raise ConfigError(
                f"got {len(batches)} batches for training.local_steps = {training.local_steps}; "
                "give one batch per local step"
            )
        constant = {
            **{f"global/{name}": w for name, w in self._weights.items()},
            "learning_rate": np.array(training.learning_rate, np.float32),
            "proximal_mu": np.array(training.proximal_mu, np.float32),
        }
        local = dict(self._weights)
        for batch in batches:
            found = self._trainer.run({**constant, **local, **batch})
            local = {name: found[f"next/{name}"] for name in local}
        return {name: local[name] - w for name, w in self._weights.items()}

    def _count_layer(
        self, layer: GraphLayer, received: np.ndarray, *, sent: np.ndarray
    ) -> LayerCount:
        table = LayerTable(
            name=layer.name,
            kind=layer.kind,
            weight=self._weights[f"{layer.name}.weight"],
            stride=layer.stride,
            padding=layer.padding,
        )
        n_examples = received.shape[1]
        spikes = float(sent.sum(dtype=np.float64)) / n_examples if layer.spiking else 0.0
        return replace(count_layer(table, received, spikes=spikes), neurons=layer.neurons)

    def _graph(
        self, kind: GraphKind, fetch: Fetch, kept: Mapping[tuple[str, int], _Graph]
    ) -> _Graph:
        """A graph of the plan; a session that the last plan needed too stays."""
        if kind not in self._plan.graphs:
            raise ConfigError(
                f"the plan names no {kind} graph; prepare the run with a device of backend 'onnx' "
                "for this client"
            )
        threads = self._threads or int(self._plan.reproducible)
        key = self._plan.graphs[kind], threads
        if key not in kept:
            self._graphs[key] = _Graph(
                fetch(key[0]), model=digest(self._plan.model), threads=threads, on=self._providers
            )
        else:
            self._graphs[key] = kept[key]
        return self._graphs[key]


class _Graph:
    """A graph that was checked, ready to run.

    Args:
        blob: the serialised model.
        model: digest of the `ModelSpec` that it must be of.
        threads: of each operator; 0 is ONNX Runtime's choice.
        on: execution providers, the first one that can takes an operator.

    Raises:
        ConfigError: it may not run here, or is of another model or format.
    """

    def __init__(self, blob: bytes, *, model: str, threads: int, on: Sequence[str]) -> None:
        check_graph(blob)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(blob, options, providers=list(on))
        except Exception as error:  # its exceptions have no other common base
            first_line = str(error).partition("\n")[0]
            raise ConfigError(f"onnxruntime refuses the graph: {first_line:.200}") from error
        self._metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._shapes = {node.name: node.shape for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]
        for what, key, expected in (("format", FORMAT_KEY, FORMAT), ("model", MODEL_KEY, model)):
            if (got := self._metadata.get(key)) != expected:
                raise ConfigError(
                    f"the graph is of {what} {got!r:.80}, the plan needs {expected!r}; prepare the "
                    "run with this version of leakwatt"
                )

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights that it takes, by name."""
        return {n: tuple(shape) for n, shape in self._shapes.items() if n not in _NO_PARAMETERS}

    @cached_property
    def layers(self) -> tuple[GraphLayer, ...]:
        """Its layers with weights.

        Raises:
            ConfigError: it does not say them.
        """
        if LAYERS_KEY not in self._metadata:
            raise ConfigError("the graph does not say of which layers it consists")
        return layers_from_text(self._metadata[LAYERS_KEY])

    def draws(self, inputs: np.ndarray, source: NoiseSource) -> Arrays:
        """What its random layers take for these inputs; nothing where nothing is random."""
        if "noise" not in self._shapes:
            return {}
        shape = (*inputs.shape[:2], self._shapes["noise"][2])
        return {"noise": source.standard_normal(shape).astype(np.float32)}

    def run(self, feed: Mapping[str, np.ndarray]) -> Arrays:
        """Its outputs by name, from those of its inputs that are in the feed."""
        taken = {name: feed[name] for name in self._shapes}
        return dict(zip(self._outputs, self._session.run(None, taken), strict=True))


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, which stays with length 1."""
    largest = logits.max(axis=-1, keepdims=True)
    total: np.ndarray = np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True)) + largest
    return total
