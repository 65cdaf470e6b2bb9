"""Exported graphs on onnxruntime against torch: every model, twin, neuron, readout and encoding.

In float64 loss and gradients agree to 1e-9 of each tensor's largest value. In float32 a sum in
another order moves a membrane by its last bits, and where that lies within 1e-5 of a threshold it
may fire for one and not for the other: such cases are counted apart. All others agree to 1e-4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedcore.data.encodings import ENCODINGS, encode
from fedcore.errors import ConfigError
from fedcore.nn.arrays import to_array
from fedcore.nn.export import export_training
from fedcore.nn.functional import loss_and_gradient, run
from fedcore.nn.models import MODELS, build, initial_weights
from fedcore.nn.neurons import NEURONS
from fedcore.nn.surrogates import SURROGATES
from fedcore.plan import EncodingSpec, ModelSpec, NeuronSpec, Readout
from fedcore.seeds import stream

__all__ = ["TOLERANCES", "Difference", "cases", "compare", "differences", "sample", "session"]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Of a difference, relative to the largest value of its tensor."""

N_STEPS, BATCH, CLOSE = 3, 4, 1e-5
_SMALL: dict[str, dict[str, Any]] = {  # options of models that are large by default
    "bottleneck": {"size": 6, "options": {"channels": [4, 4]}},
    "convnet": {"channels": [4, 4]},
    "mlp": {"hidden": [12]},
    "vgg-small": {"channels": [4]},
}
_ACTIVATIONS = ("relu", "sigmoid", "tanh")
_READOUTS = get_args(Readout)
_OUTCOMES = ("passed", "threshold_cases", "failed", "refused")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One case.

    Attributes:
        encoding: of its inputs.
        largest: difference in loss or gradients, relative to the largest value of its tensor.
        close: membranes within 1e-5 of their threshold.
        silent: parameters whose gradient is zero everywhere.
        allowed: what `largest` may be.
    """

    encoding: str
    largest: float
    close: int
    silent: int
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether the two are the same up to the tolerance."""
        return self.largest <= self.allowed


def cases() -> Iterator[ModelSpec]:
    """Every network of the matrix."""
    for name, readout in product(MODELS.names(), _READOUTS):
        base = ModelSpec(name=name, readout=readout, options=_SMALL.get(name, {}))
        for activation in _ACTIVATIONS:
            yield replace(base, activation=activation)
        for neuron in neurons():
            yield replace(base, spiking=True, neuron=neuron, init_gain=4.0)
        if readout == "membrane_mean" and name != "bottleneck":
            for spiking, kind in product((False, True), ("batch-train", "batch-eval")):
                options = {**base.options, "normalisation": kind}
                yield replace(base, spiking=spiking, options=options)


def sample() -> Iterator[ModelSpec]:
    """A few networks of the matrix in which every value of everything comes up."""
    lif = [neuron for neuron in neurons() if neuron.name == "lif"]
    for i, name in enumerate(MODELS.names()):
        base = ModelSpec(name=name, readout=_READOUTS[i % 3], options=_SMALL.get(name, {}))
        if i < len(_ACTIVATIONS):
            yield replace(base, activation=_ACTIVATIONS[i])
        # Neurons are sorted by reset, detachment and surrogate: this goes through all three.
        turn = i * (len(lif) // 4 + 1) % len(lif)
        yield replace(base, spiking=True, neuron=lif[turn], init_gain=4.0)
    normalised = {**_SMALL["convnet"], "normalisation": "batch-train"}
    yield replace(base, name="convnet", spiking=True, options=normalised)
    slayer = NeuronSpec(name="slayer-cuba", reset="zero", surrogate="exponential")
    for name, delay in (("mlp", False), ("convnet", True)):
        yield replace(
            base,
            name=name,
            spiking=True,
            neuron=replace(slayer, options={"delay_shift": False, "delay": delay}),
            readout="spike_count",
            options=_SMALL[name],
            init_gain=4.0,
        )


def neurons() -> Iterator[NeuronSpec]:
    """Every neuron, reset and surrogate, and axons that delay."""
    for name, reset, detach, surrogate, options in product(
        NEURONS.names(), ("subtract", "zero"), (False, True), SURROGATES, ({}, {"delay": True})
    ):
        try:
            spec = NeuronSpec(
                name=name, reset=reset, detach_reset=detach, surrogate=surrogate, options=options
            )
            NEURONS.get(name)(replace(spec, sharpness=1.0, threshold=0.5))
        except ConfigError:
            continue  # it has no such reset or option
        yield replace(spec, sharpness=1.0, threshold=0.5)


def compare(models: Collection[str], *, every: int) -> None:
    """Each n-th network of these models in both precisions; a line per model and one at the end."""
    total: Counter[str] = Counter()
    for name in models:
        count: Counter[str] = Counter()
        of_model = [spec for spec in cases() if spec.name == name]
        for spec in of_model[::every]:
            for dtype in TOLERANCES:
                try:
                    found = differences(spec, dtype)
                except ConfigError as error:
                    count["refused"] += len(ENCODINGS.names())
                    print(f"refused: {error}")
                    continue
                count.update(map(_outcome, found))
                for one in (one for one in found if _outcome(one) == "failed"):
                    print(f"failed: {one} of {spec} in {dtype}")
        print(f"{name:12}", *(f"{outcome} {count[outcome]:5}" for outcome in _OUTCOMES))
        total += count
    print("RESULT", *(f"{outcome}={total[outcome]}" for outcome in _OUTCOMES))


def _outcome(difference: Difference) -> str:
    if difference.agrees:
        return "passed"
    in_float32 = difference.allowed > TOLERANCES[torch.float64]
    return "threshold_cases" if difference.close and in_float32 else "failed"


def differences(spec: ModelSpec, dtype: torch.dtype) -> list[Difference]:
    """A network, exported once, for the inputs of every encoding.

    Raises:
        ConfigError: it cannot be exported, or is none.
    """
    graph = session(export_training(spec, n_steps=N_STEPS, dtype=dtype))
    return [_difference(spec, graph, name, dtype) for name in ENCODINGS.names()]


def session(graph: bytes) -> onnxruntime.InferenceSession:
    """A graph on one thread of the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _difference(
    spec: ModelSpec, graph: onnxruntime.InferenceSession, encoding: str, dtype: torch.dtype
) -> Difference:
    network, rng = build(spec), stream(0, "parity", encoding)
    params = {
        n: torch.tensor(w * (2 if n.endswith(".delay") else 1), dtype=dtype)
        for n, w in initial_weights(spec, 1).items()
    }
    inputs = torch.tensor(_inputs(spec, encoding, rng), dtype=dtype)
    labels = torch.tensor(rng.integers(0, spec.n_classes, BATCH))
    fed = {**params, "inputs": inputs, "labels": labels}
    if network.n_draws:
        draws = rng.standard_normal((N_STEPS, BATCH, network.n_draws))
        fed["noise"] = torch.tensor(draws, dtype=dtype)
    loss, slopes = loss_and_gradient(network, params, inputs, labels, fed.get("noise"))
    found = graph.run(None, {name: to_array(tensor) for name, tensor in fed.items()})
    expected = [to_array(tensor) for tensor in (loss, *slopes.values())]
    with _Thresholds() as thresholds:
        run(network, params, inputs, fed.get("noise"))
    return Difference(
        encoding=encoding,
        largest=max(_relative(a, b) for a, b in zip(found, expected, strict=True)),
        close=thresholds.close,
        silent=sum(not slope.any() for slope in slopes.values()),
        allowed=TOLERANCES[dtype],
    )


def _inputs(spec: ModelSpec, encoding: str, rng: np.random.Generator) -> np.ndarray:
    shape = spec.input_shape
    if encoding in ("delta", "events"):  # trains that come with time of their own
        shape = (N_STEPS, *shape)
    images = rng.random((BATCH, *shape), dtype=np.float32) * (rng.random((BATCH, *shape)) < 0.6)
    return encode(EncodingSpec(name=encoding, n_steps=N_STEPS), images, rng)


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    scale = np.abs(expected).max()
    return float(np.abs(found - expected).max() / scale) if scale else float(np.abs(found).max())


class _Thresholds(TorchDispatchMode):
    """Counts membranes close to their threshold: a spike is where their distance is >= 0."""

    def __init__(self) -> None:
        super().__init__()
        self.close = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch."""
        if func is torch.ops.aten.ge.Scalar and args[1] == 0:
            distance: Tensor = args[0]
            self.close += int((distance.abs() < CLOSE).sum())
        return func(*args, **(kwargs or {}))
