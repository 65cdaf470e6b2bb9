"""The ONNX backend: exported graphs on onnxruntime and numpy, for boards without torch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnxruntime

from edge_client.backends.base import CHOSEN_BY_PLAN, Fetch, no_artefacts
from edge_client.backends.onnx_graph import Graph
from edge_client.backends.onnx_int8 import quantised
from fedcore.defences.base import chain
from fedcore.defences.noise import NoiseSource
from fedcore.devices import Agreement, Computing, Deployment
from fedcore.energy import DIVERGED, Evaluation
from fedcore.errors import ConfigError, Refusal, UpdateError
from fedcore.graphs import (
    GraphKind,
    GraphLayer,
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
_CALIBRATING_SHARE = 4  # one of so many examples


class OnnxBackend:
    """See `edge_client.backends.base.Backend`.

    Args:
        threads: of each operator; 0 takes one while the plan is reproducible, else ONNX Runtime's
            own number.
        accelerator: an execution provider of ONNX Runtime that goes first; "" is the CPU alone.

    Raises:
        ConfigError: this ONNX Runtime has no such provider.
    """

    _plan: RoundPlan
    _weights: TensorMap
    _trainer: Graph
    _judge: Graph
    _small: Graph | None

    def __init__(self, *, threads: int = 0, accelerator: str = "") -> None:
        there = onnxruntime.get_available_providers()
        if accelerator and accelerator not in there:
            raise ConfigError(
                f"accelerator: got {accelerator!r}, this onnxruntime has {', '.join(there)}"
            )
        self._threads = threads
        self._providers = list(dict.fromkeys([accelerator or _CPU, _CPU]))
        self._graphs: dict[tuple[str, int], Graph] = {}  # of the last plan, by digest and threads

    @property
    def deploys(self) -> bool:
        """Whether the plan brought an int8 graph."""
        return self._small is not None

    def load(self, plan: RoundPlan, weights: TensorMap, *, fetch: Fetch = no_artefacts) -> None:
        """See `Backend.load`."""
        if "informed_update" in chain(plan.defences).hooks:
            raise ConfigError("the plan's defences need a network in torch; use backend 'torch'")
        self._plan, self._weights = plan, weights
        kept, self._graphs = self._graphs, {}
        self._trainer = self._graph(training_kind(plan.training), fetch, kept)
        self._judge = self._graph("inference", fetch, kept)
        self._small = self._graph("int8", fetch, kept) if "int8" in plan.graphs else None
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
        steps = self._steps(found)
        spread = _log_sum_exp(steps) - np.take_along_axis(
            steps, np.broadcast_to(labels[:, None], (*steps.shape[:2], 1)), axis=2
        )
        mean_loss = float(spread.mean()) + float(found.get("penalty", 0.0))
        return Evaluation(
            n_correct=int(np.sum(self._classes(found) == labels)),
            n_examples=len(labels),
            mean_loss=mean_loss if np.isfinite(mean_loss) else DIVERGED,
        )

    def count(self, inputs: np.ndarray) -> tuple[LayerCount, ...] | Missing:
        """See `Backend.count`."""
        found = self._judge.run({**self._weights, "inputs": inputs})
        return _operations(self._judge.layers, self._weights, found)

    def profile(self, inputs: np.ndarray, labels: np.ndarray) -> tuple[Deployment, ...]:
        """See `Backend.profile`: the int8 form, its ranges from the first quarter of the inputs."""
        if self._small is None:
            return ()
        trained = self._judge.run({**self._weights, "inputs": inputs})
        layers, n_calibrating = self._small.layers, max(1, len(labels) // _CALIBRATING_SHARE)
        seen = {layer.name: trained[f"received/{layer.name}"] for layer in layers}
        weights = quantised(
            self._weights, layers, {name: x[:, :n_calibrating] for name, x in seen.items()}
        )
        begin_s = time.perf_counter()
        found = self._small.run({**weights, "inputs": inputs})
        duration_s = time.perf_counter() - begin_s
        classes = self._classes(found)
        return (
            Deployment(
                form="int8",
                n_correct=int(np.sum(classes == labels)),
                n_examples=len(labels),
                duration_s=duration_s,
                exact=False,
                agreements=(
                    Agreement.counted("classes", classes != self._classes(trained)),
                    *(
                        Agreement.counted(f"spikes of {layer.name}", found[sent] != trained[sent])
                        for layer, sent in _spike_trains(layers)
                    ),
                ),
                operations=_operations(layers, weights, found),
                versions=self.versions,
            ),
        )

    @property
    def computing(self) -> Computing:
        """See `Backend.computing`."""
        return Computing(
            providers=tuple(self._providers), threads=str(self._threads or CHOSEN_BY_PLAN)
        )

    @property
    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        return {"onnxruntime": onnxruntime.__version__}

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

    def _steps(self, found: Arrays) -> np.ndarray:
        """Logits that are each judged by themselves, float64 [step, batch, class]."""
        logits = found["logits"].astype(np.float64)
        return logits if self._plan.model.readout == "per_step" else logits[None]

    def _classes(self, found: Arrays) -> np.ndarray:
        """The most likely class of each example, [batch]."""
        classes: np.ndarray = self._steps(found).mean(axis=0).argmax(axis=1)
        return classes

    def _graph(self, kind: GraphKind, fetch: Fetch, kept: Mapping[tuple[str, int], Graph]) -> Graph:
        """A graph of the plan; a session that the last plan needed too stays."""
        if kind not in self._plan.graphs:
            raise ConfigError(
                f"the plan names no {kind} graph; prepare the run with a device of backend 'onnx' "
                "for this client"
            )
        threads = self._threads or int(self._plan.reproducible)
        key = self._plan.graphs[kind], threads
        if key not in kept:
            self._graphs[key] = Graph(
                fetch(key[0]), model=digest(self._plan.model), threads=threads, on=self._providers
            )
        else:
            self._graphs[key] = kept[key]
        return self._graphs[key]


def _operations(
    layers: Sequence[GraphLayer], weights: TensorMap, found: Arrays
) -> tuple[LayerCount, ...]:
    """Of a forward run, per layer and example."""
    sent = dict(_spike_trains(layers))
    counts = []
    for layer in layers:
        table = LayerTable(
            name=layer.name,
            kind=layer.kind,
            weight=weights[f"{layer.name}.weight"],
            stride=layer.stride,
            padding=layer.padding,
        )
        received = found[f"received/{layer.name}"]
        n_spikes = float(found[sent[layer]].sum(dtype=np.float64)) if layer.spiking else 0.0
        count = count_layer(table, received, spikes=n_spikes / received.shape[1])
        counts.append(replace(count, neurons=layer.neurons))
    return tuple(counts)


def _spike_trains(layers: Sequence[GraphLayer]) -> Iterator[tuple[GraphLayer, str]]:
    """Spiking layers, each with the output that holds its spikes; of the last one their sums."""
    for layer, following in itertools.zip_longest(layers, layers[1:]):
        if layer.spiking:
            yield layer, f"received/{following.name}" if following else "logits"


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, which stays with length 1."""
    largest = logits.max(axis=-1, keepdims=True)
    total: np.ndarray = np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True)) + largest
    return total
