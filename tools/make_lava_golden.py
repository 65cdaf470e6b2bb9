"""What lava-dl's SLAYER computes for a few networks, as files that its twin is held against.

Runs in the Lava environment (`make setup-lava`): `python tools/make_lava_golden.py` writes
tests/golden/lava/*.npz; `--check` computes everything again and compares.

A file holds "model" (the ModelSpec as JSON), "slayer" (the neuron's constants in SLAYER's terms, as
JSON), "inputs" [time, batch, feature...], "labels" [batch], "loss", and by name "weight/NAME",
"gradient/NAME" (shapes as in Leakwatt) and "spikes/LAYER" [time, batch, neuron...].
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedcore.nn.models import READOUT, initial_weights
from fedcore.plan import ModelSpec, NeuronSpec
from fedcore.seeds import stream
from fedcore.strict import canonical_json

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden" / "lava"
TUTORIAL = {
    "threshold": 1.25,
    "current_decay": 0.25,
    "voltage_decay": 0.03,
    "tau_grad": 0.03,
    "scale_grad": 3.0,
}
"""The constants of lava-dl's own examples."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, what it receives, and how strong its weights are.

    Attributes:
        model: registered model.
        options: of the model.
        input_shape: of one example.
        slayer: constants of the neurons, in SLAYER's terms.
        neuron: the twin's further options.
        gain: factor on the default initial weights, the readout's too.
        rate: of random input spikes; None for analogue inputs in [0, 1].
        n_steps: of time.
        delays: in which those of the axons are drawn, as the twin's option "delay" has them.
    """

    model: str
    options: dict[str, Any]
    input_shape: tuple[int, ...] = (24,)
    slayer: dict[str, float] = field(default_factory=lambda: TUTORIAL)
    neuron: dict[str, bool] = field(default_factory=dict)
    gain: float = 4.0
    rate: float | None = 0.3
    n_steps: int = 16
    delays: tuple[float, float] = (0.0, 1.0)


CASES = {
    "dense": Case(model="mlp", options={"hidden": [20]}),
    "dense-other-constants": Case(
        model="mlp",
        options={"hidden": [20]},
        slayer={
            "threshold": 0.7,
            "current_decay": 1.0,
            "voltage_decay": 0.41,
            "tau_grad": 0.2,
            "scale_grad": 8.0,
        },
    ),
    "dense-without-leak": Case(
        model="mlp",
        options={"hidden": [20]},
        slayer=TUTORIAL | {"threshold": 12.3, "current_decay": 0.0, "voltage_decay": 0.0},
    ),
    "dense-out-of-range": Case(
        model="mlp", options={"hidden": [20]}, slayer=TUTORIAL | {"threshold": 9.0}, gain=30.0
    ),
    "dense-float-weights": Case(
        model="mlp", options={"hidden": [20]}, neuron={"quantise_weights": False}
    ),
    "dense-analogue-input": Case(model="mlp", options={"hidden": [20]}, rate=None, n_steps=8),
    "deep": Case(
        model="mlp", options={"hidden": [18, 16, 14]}, neuron={"delay_shift": False}, gain=3.0
    ),
    "deep-shifted": Case(model="mlp", options={"hidden": [18, 16, 14]}, gain=3.0),
    "convnet": Case(
        model="convnet", options={"channels": [4, 6]}, input_shape=(2, 9, 8), n_steps=12
    ),
    "deep-delays": Case(
        model="mlp",
        options={"hidden": [18, 16, 14]},
        neuron={"delay": True},
        gain=3.0,
        n_steps=24,
        delays=(-2.0, 5.0),
    ),
    "dense-long-delays": Case(
        model="mlp",
        options={"hidden": [20]},
        neuron={"delay": True, "delay_shift": False},
        n_steps=72,
        delays=(50.0, 70.0),
    ),
    "convnet-delays": Case(
        model="convnet",
        options={"channels": [4, 6]},
        input_shape=(2, 9, 8),
        neuron={"delay": True},
        n_steps=16,
        delays=(0.0, 4.0),
    ),
    "lenet": Case(
        model="lenet", options={}, input_shape=(1, 8, 8), neuron={"delay_shift": False}, n_steps=8
    ),
}
N_EXAMPLES, N_CLASSES = 5, 4


def spec_of(case: Case) -> ModelSpec:
    """The case as Leakwatt describes it."""
    threshold = int(case.slayer["threshold"] * 64) / 64  # as SLAYER keeps it
    return ModelSpec(
        name=case.model,
        spiking=True,
        input_shape=case.input_shape,
        n_classes=N_CLASSES,
        readout="spike_count",
        options=case.options,
        neuron=NeuronSpec(
            name="slayer-cuba",
            decay=1 - case.slayer["voltage_decay"],
            threshold=case.slayer["threshold"],
            reset="zero",
            surrogate="exponential",
            sharpness=1 / (100 * case.slayer["tau_grad"] * threshold),
            options={name: case.slayer[name] for name in ("current_decay", "scale_grad")}
            | case.neuron,
        ),
    )


def blocks(case: Case) -> Iterator[tuple[str, torch.nn.Module]]:
    """SLAYER's blocks of a case by the names of Leakwatt's layers, flattening by its own."""
    from lava.lib.dl.slayer.block import cuba

    ways: dict[str, Any] = {"delay_shift": case.neuron.get("delay_shift", True)}
    hidden = {"delay": case.neuron.get("delay", False)}
    if not case.neuron.get("quantise_weights", True):
        ways["pre_hook_fx"] = None
    channels, *size = case.input_shape
    if case.model == "convnet":
        convolutions = [(n, 2) for n in case.options["channels"]]
    else:
        convolutions = [(12, 2), (12, 2), (12, 1)] if case.model == "lenet" else []
    for i, (n, stride) in enumerate(convolutions, start=1):
        yield (
            f"conv{i}",
            cuba.Conv(case.slayer, channels, n, 5, stride=stride, padding=2, **hidden, **ways),
        )
        channels, size = n, [(s - 1) // stride + 1 for s in size]
    if convolutions:
        yield "flatten", cuba.Flatten()
    n_inputs = channels * prod(size)
    for i, n in enumerate(case.options.get("hidden", ()), start=1):
        yield f"hidden{i}", cuba.Dense(case.slayer, n_inputs, n, **hidden, **ways)
        n_inputs = n
    yield READOUT, cuba.Dense(case.slayer, n_inputs, N_CLASSES, **ways)


def compute(name: str, case: Case) -> dict[str, np.ndarray]:
    """One forward and backward run of SLAYER."""
    rng, spec = stream(5, "lava golden", name), spec_of(case)
    drawn = rng.random((case.n_steps, N_EXAMPLES, *case.input_shape), dtype=np.float32)
    inputs = drawn if case.rate is None else (drawn < case.rate).astype(np.float32)
    labels = rng.integers(0, N_CLASSES, N_EXAMPLES)
    weights = {
        n: np.float32(rng.uniform(*case.delays, w.shape) if n.endswith("delay") else case.gain * w)
        for n, w in initial_weights(spec, 1).items()
    }
    found = {f"weight/{n}": w for n, w in weights.items()}

    x, by_name = torch.from_numpy(inputs).movedim(0, -1), dict(blocks(case))
    for layer, block in by_name.items():
        parameters = _parameters(layer, block)
        for learned, parameter in parameters.items():
            given = torch.from_numpy(weights[learned].copy())  # SLAYER clamps delays in place
            parameter.data = given.reshape(*given.shape, *[1] * (parameter.dim() - given.dim()))
        x = block(x)
        if parameters:
            found[f"spikes/{layer}"] = x.detach().movedim(-1, 0).numpy().astype(np.uint8)
    loss = F.cross_entropy(x.sum(-1), torch.from_numpy(labels))
    loss.backward()
    for layer, block in by_name.items():
        for learned, parameter in _parameters(layer, block).items():
            slope = parameter.grad.numpy()
            found[f"gradient/{learned}"] = slope.reshape(weights[learned].shape)
    return found | {
        "model": np.array(canonical_json(spec).decode()),
        "slayer": np.array(json.dumps(case.slayer, sort_keys=True)),
        "inputs": inputs if case.rate is None else inputs.astype(np.uint8),
        "labels": labels,
        "loss": loss.detach().numpy(),
    }


def _parameters(layer: str, block: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What a block learns, by Leakwatt's names."""
    if layer == "flatten":
        return {}
    learned = {f"{layer}.weight": block.synapse.weight}
    if block.delay is not None:
        block.delay.init = True  # or its first run would draw delays
        learned[f"{layer}_axons.delay"] = block.delay.delay
    return learned


def differences(kept: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> list[str]:
    """Names of what is not the same: sums of float32 may differ in their last digits."""
    odd = sorted(kept.keys() ^ now.keys())
    for name in sorted(kept.keys() & now.keys()):
        is_sum = name == "loss" or name.startswith("gradient/")
        same = (
            np.allclose(kept[name], now[name], rtol=1e-5, atol=1e-6 * np.abs(now[name]).max())
            if is_sum
            else np.array_equal(kept[name], now[name])
        )
        odd += [] if same else [name]
    return odd


def main(arguments: list[str]) -> int:
    """Write the files, or with --check compare them; returns 1 where they differ."""
    torch.set_num_threads(1)
    failed = False
    for name, case in CASES.items():
        now, path = compute(name, case), FOLDER / f"{name}.npz"
        if arguments != ["--check"]:
            FOLDER.mkdir(exist_ok=True)
            np.savez_compressed(path, **now)
        with np.load(path) as kept:
            odd = differences(dict(kept), now)
        fired = [int(v.sum()) for n, v in now.items() if n.startswith("spikes/")]
        print(f"{name}: spikes per layer {fired}, loss {float(now['loss']):.4f}", *odd)
        failed |= bool(odd)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
