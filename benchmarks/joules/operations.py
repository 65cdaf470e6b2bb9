"""Counted operations of small networks beside a count by plain loops, and what tables make of them.

The loops look at every weight, every position and every step by itself. Recurrent layers are not
among our networks: one of each twin is run and counted in numpy.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.processes import finish, start
from fedcore.nn.arrays import to_tensor, to_tensors
from fedcore.nn.functional import run
from fedcore.nn.models import build, initial_weights
from fedcore.nn.models.network import Network
from fedcore.nn.probes import count_layers
from fedcore.plan import ModelSpec, NeuronSpec
from fedcore.seeds import stream
from hardware.opcount import LayerTable, count_layer
from hardware.operations import price_lines

__all__ = ["beside_neurobench", "rows"]

Array = npt.NDArray[np.float32]

NETWORKS = {
    "dense": ("mlp", {"hidden": [6, 5]}),
    "conv": ("convnet", {"channels": [2, 3]}),
    "pooled": ("vgg-small", {"channels": [2, 3]}),
}
N_STEPS = 4


def rows() -> Iterator[str]:
    """A line per network, twin and batch size, then one network's energies under all tables."""
    yield "network   twin     batch  AC/example  MAC/example  by loops"
    for (kind, (name, options)), spiking, n_examples in itertools.product(
        NETWORKS.items(), (False, True), (1, 8)
    ):
        spec = ModelSpec(
            name=name,
            spiking=spiking,
            input_shape=(1, 6, 6),
            n_classes=3,
            init_gain=3.0,
            options=options,
        )
        model, params = build(spec), to_tensors(initial_weights(spec, 1))
        draw = torch.Generator().manual_seed(n_examples)
        inputs = torch.rand(N_STEPS, n_examples, 1, 6, 6, generator=draw)
        inputs = (inputs < 0.3).float() if spiking else inputs
        layers = count_layers(model, params, inputs)
        received = run(model, params, inputs).received
        ours = [(layer.acs, layer.macs) for layer in layers]
        loops = [_by_loops(model, layer.name, received[layer.name]) for layer in layers]
        acs, macs = (sum(layer[n] for layer in ours) for n in (0, 1))
        yield (
            f"{kind:9} {'spiking' if spiking else 'analog':8} {n_examples:5} {acs:11.3f} "
            f"{macs:12.3f}  {'equal' if ours == loops else f'DIFFER: {ours} {loops}'}"
        )
    for spiking, n_examples in itertools.product((False, True), (1, 8)):
        yield _recurrent_row(n_examples, spiking=spiking)
    yield f"The last one ({kind}, spiking), one forward run:"
    yield from price_lines(layers)


def _recurrent_row(n_examples: int, *, spiking: bool) -> str:
    """A layer that also hears itself one step late: two tables of synapses, some of them 0.

    None of our networks is recurrent, so that it runs and is counted here, in numpy.
    """
    rng = stream(n_examples, "recurrent")
    inputs = rng.random((N_STEPS, n_examples, 6))
    inputs = (inputs < 0.4).astype(np.float32) if spiking else inputs
    forward, back = (rng.integers(-3, 4, size=(5, n)) for n in (6, 5))
    membrane, own = np.zeros((n_examples, 5)), np.zeros((N_STEPS + 1, n_examples, 5))
    for t, x in enumerate(inputs):
        membrane = 0.5 * membrane + x @ forward.T + own[t] @ back.T
        own[t + 1] = membrane > 1 if spiking else np.tanh(membrane)
        membrane *= membrane <= 1 if spiking else 0
    ran = (("forward", forward, inputs), ("back", back, own[:-1]))
    counts = [
        count_layer(LayerTable(name=name, kind="dense", weight=weight), arrived)
        for name, weight, arrived in ran
    ]
    products = sum(
        int(weight[o, i] != 0)
        for _, weight, arrived in ran
        for step in arrived
        for example in step
        for i, value in enumerate(example)
        if value or not spiking
        for o in range(5)
    )
    ours = tuple(sum(getattr(layer, of) for layer in counts) for of in ("acs", "macs"))
    mean = products / n_examples
    loops = (mean, 0.0) if spiking else (0.0, mean)
    equal = "equal" if ours == loops else f"DIFFER: {ours} {loops}"
    twin = "spiking" if spiking else "analog"
    return f"{'recurrent':9} {twin:8} {n_examples:5} {ours[0]:11.3f} {ours[1]:12.3f}  {equal}"


def beside_neurobench(python: Path) -> Iterator[str]:
    """The same dense network on the same spikes as NeuroBench 2.3 counts it, per example.

    Args:
        python: interpreter of an environment with neurobench and snntorch.
    """
    spec = ModelSpec(
        name="mlp",
        spiking=True,
        input_shape=(1, 4, 8),
        n_classes=4,
        init_gain=3.0,
        neuron=NeuronSpec(reset="zero"),
        options={"hidden": [24]},
    )
    weights = initial_weights(spec, 1)
    train = (stream(0, "neurobench").random((16, 8, 32)) < 0.3).astype(np.float32)
    inputs = to_tensor(train.reshape(16, 8, *spec.input_shape))
    layers = count_layers(build(spec), to_tensors(weights), inputs)
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, Any] = {**weights, "inputs": train, "beta": spec.neuron.decay}
        np.savez(Path(folder) / "cases.npz", **cases)
        theirs = finish(
            start("benchmarks.neurobench_peer", str(Path(folder) / "cases.npz"), python=python)
        )
    yield f"{'':44}{'AC':>9}{'MAC':>7}{'dense':>9}{'neuron updates':>16}{'silent':>9}"
    ours = [sum(getattr(layer, of) for layer in layers) for of in ("acs", "macs", "dense")]
    silent = 1 - layers[0].spikes / layers[0].updates
    yield _row("ours (updates of the hidden layer)", [*ours, layers[0].updates, silent])
    for name, label in (
        ("snntorch", "NeuroBench, snnTorch's neurons"),
        ("plain", "NeuroBench, unregistered neurons"),
    ):
        found = theirs[name]
        synaptic = found["SynapticOperations"]
        counts = [synaptic[of] for of in ("Effective_ACs", "Effective_MACs", "Dense")]
        yield _row(label, [*counts, found["MembraneUpdates"], found["ActivationSparsity"]])


def _row(label: str, counts: Sequence[float]) -> str:
    acs, macs, dense, updates, silent = counts
    return f"{label:44}{acs:9.1f}{macs:7.1f}{dense:9.1f}{updates:16.1f}{silent:9.4f}"


def _by_loops(model: Network, name: str, x: Tensor) -> tuple[float, float]:
    """Accumulations and multiply-accumulations per example of a layer that received x."""
    layer = cast("nn.Linear | nn.Conv2d", model.get_submodule(name))
    examples = x.flatten(0, 1).numpy()
    binary = bool(np.isin(examples, (0, 1)).all())
    uses = itertools.chain.from_iterable(_uses(layer, example) for example in examples)
    products = sum(n_weights for value, n_weights in uses if value or not binary)
    mean = products / x.shape[1]
    return (mean, 0.0) if binary else (0.0, mean)


def _uses(layer: nn.Linear | nn.Conv2d, example: Array) -> Iterator[tuple[float, int]]:
    """Each input value that meets weights, and how many; again for each place of a kernel."""
    if isinstance(layer, nn.Linear):
        yield from ((value, layer.out_features) for value in example)
        return
    size, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    channels, height, width = example.shape
    tops = range(-padding, height + padding - size + 1, stride)
    lefts = range(-padding, width + padding - size + 1, stride)
    for c, top, left, i, j in itertools.product(
        range(channels), tops, lefts, range(size), range(size)
    ):
        if 0 <= top + i < height and 0 <= left + j < width:
            yield example[c, top + i, left + j], layer.out_channels


if __name__ == "__main__":
    print("\n".join(rows()))
