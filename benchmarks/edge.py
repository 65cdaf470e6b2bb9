"""A client without torch: how fast its graphs train, and whether they compute what torch does.

    python -m benchmarks.edge speed                            on one core, beside its peers
    python -m benchmarks.edge parity [MODEL...] [--every N]    `benchmarks.edge_parity`
    python -m benchmarks.edge client                           `benchmarks.edge_client`

`speed` takes training steps of a spiking convnet (28x28, 12 and 12 channels, 8 steps, batch 16) in
onnxruntime, torch, snnTorch and SpikingJelly. The four take turns, so that whatever else the
machine does hits all alike, and processor time counts. `cold_s` is the wall time from the start of
a new process to the end of its first step. `parity` without --every takes a core half an hour.
Every part ends with one line `RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.edge_client import measure_clients
from benchmarks.edge_parity import compare
from benchmarks.edge_peers import SnnTorch, SpikingJelly, gradient_by
from edge_client.backends.onnx_backend import OnnxBackend
from edge_client.backends.torch_backend import TorchBackend
from fedcore.nn.arrays import to_tensor, to_tensors
from fedcore.nn.export import export_inference, export_training
from fedcore.nn.models import MODELS, initial_weights
from fedcore.plan import EncodingSpec, ModelSpec, RoundPlan, Training
from fedcore.seeds import stream
from fedcore.strict import canonical_json
from fedcore.types import TensorMap

MODEL = ModelSpec(
    name="convnet",
    spiking=True,
    input_shape=(1, 28, 28),
    init_gain=3.0,  # lets spikes through to the second layer
    options={"channels": [12, 12]},
)
N_STEPS, BATCH = 8, 16
_WARM_UP = 2


def main() -> None:
    """Measure or compare, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge")
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("speed").add_argument("--turns", type=int, default=40)
    chosen = parts.add_parser("parity")
    chosen.add_argument("models", nargs="*", metavar="MODEL", help="only these")
    chosen.add_argument("--every", type=int, default=1, help="only each n-th network")
    parts.add_parser("client").add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.part == "speed":
        speed(turns=args.turns)
    elif args.part == "client":
        measure_clients(turns=args.turns)
    else:
        compare(args.models or MODELS.names(), every=args.every)


def speed(*, turns: int) -> None:
    """Time a training step of each, and a new process's first."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    begun = time.perf_counter()
    graphs = {
        "training": export_training(MODEL, n_steps=N_STEPS),
        "inference": export_inference(MODEL, n_steps=N_STEPS),
    }
    export_s = time.perf_counter() - begun
    by_digest = {hashlib.sha256(graph).hexdigest(): graph for graph in graphs.values()}
    plan = RoundPlan(
        run_id="edge",
        round=0,
        experiment_digest="0" * 64,
        model=MODEL,
        weights="0" * 64,
        encoding=EncodingSpec(name="rate", n_steps=N_STEPS),
        training=Training(batch_size=BATCH),
        graphs=dict(zip(graphs, by_digest, strict=True)),
    )
    weights, rng = initial_weights(MODEL, 0), stream(0, "edge")
    batch = {
        "inputs": (rng.random((N_STEPS, BATCH, *MODEL.input_shape)) < 0.3).astype(np.float32),
        "labels": rng.integers(0, MODEL.n_classes, BATCH),
    }
    onnx = OnnxBackend(threads=1)
    begun = time.perf_counter()
    onnx.load(plan, weights, fetch=by_digest.__getitem__)
    sessions_s = time.perf_counter() - begun
    took_ms = by_turns(_steps(plan, onnx, weights, batch), turns=turns)
    figures = _table(took_ms)
    figures |= {f"{name}_kb": f"{len(graph) / 1000:.1f}" for name, graph in graphs.items()}
    figures |= {"export_s": f"{export_s:.2f}", "sessions_s": f"{sessions_s:.3f}"}
    figures["cold_s"] = f"{_cold_s(plan, by_digest, weights, batch):.2f}"
    print("RESULT", *(f"{name}={figure}" for name, figure in figures.items()))


def by_turns(calls: Mapping[str, Callable[[], object]], *, turns: int) -> dict[str, list[float]]:
    """Processor time of each call in ms, one call after the other in every turn."""
    took_ms: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(_WARM_UP + turns):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            if turn >= _WARM_UP:
                took_ms[name].append(1e3 * (time.process_time() - begun))
    return took_ms


def _steps(
    plan: RoundPlan, onnx: OnnxBackend, weights: TensorMap, batch: TensorMap
) -> dict[str, Callable[[], object]]:
    """One training step of each on the same weights and spikes."""
    plain = TorchBackend(threads=1)
    plain.load(plan, weights)
    inputs, labels = to_tensor(batch["inputs"]), to_tensor(batch["labels"])
    params, neuron = to_tensors(weights), MODEL.neuron
    snntorch = SnnTorch(params, decay=neuron.decay, slope=neuron.sharpness)
    jelly = SpikingJelly(params, decay=neuron.decay)
    sent = [batch["inputs"]], [batch["labels"]]
    return {
        "onnx": lambda: onnx.train(*sent, noise=stream(0)),
        "torch": lambda: plain.train(*sent, noise=stream(0)),
        "snntorch": lambda: gradient_by(snntorch, inputs, labels),
        "spikingjelly": lambda: gradient_by(jelly, inputs, labels),
    }


def _table(took_ms: Mapping[str, list[float]]) -> dict[str, str]:
    """Print it; its figures by name."""
    figures = {}
    for name, each in took_ms.items():
        median = statistics.median(each)
        ratio = median / statistics.median(took_ms["onnx"])
        print(f"{name:13} median {median:6.2f} ms  least {min(each):6.2f} ms  {ratio:5.2f} x onnx")
        figures |= {f"{name}_ms": f"{median:.2f}", f"{name}_ratio": f"{ratio:.2f}"}
    return figures


def _cold_s(
    plan: RoundPlan, by_digest: Mapping[str, bytes], weights: TensorMap, batch: TensorMap
) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plan.json").write_bytes(canonical_json(plan))
        np.savez(folder / "weights.npz", **weights)
        np.savez(folder / "batch.npz", **batch)
        for digest, graph in by_digest.items():
            (folder / digest).write_bytes(graph)
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "benchmarks.edge_cold", name], check=True)
        return time.perf_counter() - begun


if __name__ == "__main__":
    main()
