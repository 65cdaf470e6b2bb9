"""Our gradient inversion beside breaching's: the same victims, the same run, one thread each.

    python -m benchmarks.attacks speed --root DATA --breaching-python VENV/bin/python [--compile]
    python -m benchmarks.attacks NET --root DATA [--breaching-python VENV/bin/python] [--choose]

DATA is as for `benchmarks.data_sets`. Speed is iterations of the matching objective on LeNet, 32
victims in one call, added up over victims, per CPU-second of one thread; recording, 200 evaluations
in, and compiling are not in it, and are printed. NET is one of three untrained networks, seed 0:

* sigmoid-lenet: LeNet with sigmoid and weights from U(-0.5, 0.5), as Zhu et al. attack it, on
  colour pictures of 32x32 pixels;
* relu-colour, relu-grey: two 5x5 convolutions of 16 and 32 channels, ReLU and 2x2 means behind
  each, and a linear readout; on the same pictures, and on MNIST.

Victims are the first test images; `--choose` takes images for choosing settings instead. Each
example is a batch of its own. breaching attacks as many of the same as `--peer-victims` says, with
the attack of its own that does best on that network. Ends with a line `RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attacker.attacks import ATTACKS
from attacker.attacks.base import Attack, Budget
from attacker.batch import Batch, Victim
from attacker.inputs import input_view
from attacker.objectives import cosine_distance
from attacker.recorded import PLAIN_CALLS
from benchmarks.data_sets import DataSet, parts_of
from benchmarks.processes import finish, start
from benchmarks.updates import observation
from fedcore.data.datasets import Examples
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors
from fedcore.nn.functional import gradient
from fedcore.nn.models import READOUT
from fedcore.nn.models import build as build_model
from fedcore.nn.models.network import Network
from fedcore.plan import Choice, EncodingSpec, ModelSpec, Training
from fedcore.seeds import stream
from fedcore.strict import build
from fedcore.types import Knowledge, Observation, TensorMap
from testbed.metrics import METRICS
from testbed.statistics import mean_with_interval

__all__ = ["NETS", "Net", "main", "relu_network"]

N_SPEED = 32
TOTAL_VARIATION = 0.2  # breaching's own weight, for the same work per iteration


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network, its victims, our attack on it and breaching's.

    Attributes:
        spec: of the plan.
        network: gives the structure.
        bound: weights are drawn from U(-bound, bound); None for torch's default.
        data: the victims'.
        attack: ours.
        budget: of each victim.
        peer: options of `benchmarks.breaching_peer`.
    """

    spec: ModelSpec
    network: Callable[[ModelSpec], Network]
    bound: float | None = None
    data: DataSet
    attack: Choice
    budget: Budget
    peer: dict[str, object] = field(default_factory=dict)

    def weights(self, *, seed: int = 0) -> dict[str, np.ndarray]:
        """Untrained ones, float32 by name."""
        shapes = {n: tuple(p.shape) for n, p in self.network(self.spec).named_parameters()}
        found = {}
        for name, shape in shapes.items():
            n_inputs = np.prod(shapes[f"{name.rpartition('.')[0]}.weight"][1:])
            bound = self.bound or 1 / np.sqrt(n_inputs)
            drawn = stream(seed, "benchmark weights", name).uniform(-bound, bound, shape)
            found[name] = drawn.astype(np.float32)
        return found

    def observe(self, weights: TensorMap, examples: Examples, number: int) -> Observation:
        """What a client would send for one example."""
        label = examples.labels[number : number + 1]
        sent = gradient(
            self.network(self.spec),
            to_tensors(weights),
            to_tensor(examples.inputs[number][None, None]),
            to_tensor(label),
        )
        training = Training(batch_size=1)
        return observation(
            self.spec, EncodingSpec(), weights, to_arrays(sent), training=training, client=number
        )


def relu_network(spec: ModelSpec) -> Network:
    """Convolution, ReLU and pooling, twice; the network of a federated-learning tutorial."""
    layers: dict[str, nn.Module] = {}
    channels, *sides = spec.input_shape
    for number, n_outputs in enumerate((16, 32), start=1):
        name = f"conv{number}"
        layers[name] = nn.Conv2d(channels, n_outputs, 5, padding=2, device="meta")
        layers[f"{name}_neurons"], layers[f"{name}_pool"] = nn.ReLU(), nn.AvgPool2d(2)
        channels, sides = n_outputs, [side // 2 for side in sides]
    n_features = channels * int(np.prod(sides))
    layers[f"{READOUT}_flatten"] = nn.Flatten()
    layers[READOUT] = nn.Linear(n_features, spec.n_classes, device="meta")
    return Network(spec, layers)


NETS = {
    "sigmoid-lenet": Net(
        spec=ModelSpec(name="lenet", input_shape=(3, 32, 32), activation="sigmoid"),
        network=build_model,
        bound=0.5,
        data="cifar10-sample",
        attack=Choice(name="idlg"),
        budget=Budget(restarts=1, iterations=3200),
        peer={"net": "lenet", "attack": "deepleakage", "iterations": 100},
    ),
    "relu-colour": Net(
        spec=ModelSpec(name="convnet", input_shape=(3, 32, 32)),
        network=relu_network,
        data="cifar10-sample",
        attack=Choice(name="peeling", options={"smooth_total_variation": 1e-4, "polish": 0.4}),
        budget=Budget(restarts=1, iterations=250),
        peer={
            "net": "conv-pool",
            "attack": "invertinggradients",
            "iterations": 1200,
            "total_variation": 0.001,
        },
    ),
    "relu-grey": Net(
        spec=ModelSpec(name="convnet", input_shape=(1, 28, 28)),
        network=relu_network,
        data="mnist",
        attack=Choice(name="peeling", options={"smooth_total_variation": 2e-6}),
        budget=Budget(restarts=1, iterations=400),
        peer={
            "net": "conv-pool",
            "attack": "invertinggradients",
            "iterations": 1200,
            "total_variation": 0.0,  # with it, breaching runs on three channels only
        },
    ),
}


def main() -> None:
    """Measure, print, and end with the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["speed", *NETS])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--breaching-python", type=Path)
    parser.add_argument("--iterations", type=int, default=200, help="for speed")
    parser.add_argument("--compile", action="store_true", help="for speed: compiled, too")
    parser.add_argument("--victims", type=int, default=20, help="for strength")
    parser.add_argument("--peer-victims", type=int, default=2, help="for strength")
    parser.add_argument("--attack", choices=ATTACKS.names(), help="with its defaults, for strength")
    parser.add_argument("--choose", action="store_true", help="not on the victims")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = NETS["sigmoid-lenet" if args.part == "speed" else args.part]
    parts = parts_of(net.data, args.root)
    examples = parts.choosing if args.choose else parts.victims
    found = speed(net, examples, args) if args.part == "speed" else strength(net, examples, args)
    print("RESULT " + " ".join(f"{key}={value:.6g}" for key, value in found.items()))


def speed(net: Net, examples: Examples, args: argparse.Namespace) -> dict[str, float]:
    """Iterations per CPU-second, and the objective at one place, ours and breaching's."""
    weights = net.weights()
    found = {
        f"{how}_its_per_cpu_s": _iterations_per_cpu_s(
            _batch(net, weights, examples, compiles=how == "compiled"), n=args.iterations
        )
        for how in (("ours", "compiled") if args.compile else ("ours",))
    }
    if args.breaching_python:
        probe = stream(0, "probe").random(net.spec.input_shape, dtype=np.float32)
        probed = net.observe(weights, replace(examples.take(np.arange(1)), inputs=probe[None]), 0)
        cosine = cosine_distance(
            to_tensors(probed.tensors), to_tensors(net.observe(weights, examples, 0).tensors)
        )
        peer = _peer(
            args.breaching_python,
            weights,
            examples.take(np.arange(2)),
            probe=probe,
            net="lenet",
            attack="invertinggradients",
            iterations=600,
        )
        rate = peer["victim_iterations"] / peer["cpu_s"]
        found["breaching_its_per_cpu_s"] = rate
        for how in ("ours", "compiled") if args.compile else ("ours",):
            found[f"{how}_ratio"] = found[f"{how}_its_per_cpu_s"] / rate
        found["cosine_difference"] = abs(float(cosine) - peer["cosine_at_probe"])
    return found


def _iterations_per_cpu_s(batch: Batch, *, n: int) -> float:
    """Of cosine and total variation, 32 victims in one call, once they are recorded."""
    rows = batch.starts("uniform", seed=0)
    started_s = time.process_time()
    for _ in range(PLAIN_CALLS + 2):
        batch.evaluate(rows)
    print(f"the first {PLAIN_CALLS + 2}: {time.process_time() - started_s:.1f} CPU-s", flush=True)
    started_s = time.process_time()
    for _ in range(n):
        rows = (rows - 0.01 * batch.evaluate(rows)[1].sign()).clamp(0, 1)
    return N_SPEED * n / (time.process_time() - started_s)


def _batch(net: Net, weights: TensorMap, examples: Examples, *, compiles: bool) -> Batch:
    """The victims as Inverting Gradients attacks them, with breaching's weight of the prior."""
    attack: Any = build(
        ATTACKS, Choice(name="inverting-gradients", options={"total_variation": TOTAL_VARIATION})
    )
    seen = [net.observe(weights, examples, number) for number in range(N_SPEED)]
    return Batch(
        [
            Victim(
                ticket=one.ticket,
                weights=one.weights,
                gradient=one.tensors,
                scale=1.0,
                labels=(np.array([label]),),
            )
            for one, label in zip(seen, examples.labels, strict=False)
        ],
        network=net.network(net.spec),
        view=input_view(EncodingSpec(), input_shape=net.spec.input_shape, batch_size=1),
        n_examples=1,
        restarts=1,
        objective=partial(attack.loss, n_spatial=2),
        compiles=compiles,
    )


def strength(net: Net, examples: Examples, args: argparse.Namespace) -> dict[str, float]:
    """PSNR and CPU-seconds per victim, all of ours in one call, breaching's one by one."""
    weights = net.weights()
    seen = [net.observe(weights, examples, number) for number in range(args.victims)]
    choice = Choice(name=args.attack) if args.attack else net.attack
    attack: Attack = build(ATTACKS, choice)
    started_s = time.process_time()
    answers = attack.reconstruct(
        seen,
        [Knowledge() for _ in seen],
        rng=stream(0, "benchmark"),
        budget=net.budget,
        progress=lambda *_: None,
        network_of=net.network,
    )
    cpu_s = (time.process_time() - started_s) / len(seen)
    chosen = np.stack([answer.candidates[answer.chosen][0] for answer in answers])
    found = {"ours_cpu_s": cpu_s} | _told(f"{choice.name}, {cpu_s:.2f} CPU-s", examples, chosen)
    if args.breaching_python:
        few = examples.take(np.arange(args.peer_victims))
        peer = _peer(args.breaching_python, weights, few, probe=few.inputs[0], **net.peer)
        peer_cpu_s = peer["cpu_s"] / args.peer_victims
        found["breaching_cpu_s"] = peer_cpu_s
        found["breaching_db"] = float(-10 * np.log10(peer["mse"]).mean())
        both = found["same_victims_db"] = float(np.mean(_psnr_db(few.inputs, chosen)))
        print(
            f"breaching: {found['breaching_db']:.2f} dB in {peer_cpu_s:.1f} CPU-s; ours {both:.2f}"
        )
    return found


def _told(what: str, examples: Examples, found: np.ndarray) -> dict[str, float]:
    scores = _psnr_db(examples.inputs, found)
    mean = np.broadcast_to(examples.inputs[len(found) :].mean(0), found.shape)
    baseline = float(np.mean(_psnr_db(examples.inputs, mean)))
    print(
        f"{what}: PSNR {mean_with_interval(scores)}; the mean image {baseline:.2f} dB", flush=True
    )
    return {
        "ours_db": float(np.mean(scores)),
        "ours_lowest_db": min(scores),
        "mean_image_db": baseline,
    }


def _psnr_db(truths: np.ndarray, found: np.ndarray) -> list[float]:
    metric = METRICS.get("psnr")
    scores = [metric.score(t[None], f[None]) for t, f in zip(truths, found, strict=False)]
    return [score for score in scores if isinstance(score, float)]


def _peer(
    python: Path, weights: TensorMap, examples: Examples, *, probe: np.ndarray, **options: object
) -> Any:
    """What breaching reaches on these."""
    named: dict[str, Any] = {f"weights/{name}": tensor for name, tensor in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        cases = Path(folder) / "cases.npz"
        np.savez(cases, images=examples.inputs, labels=examples.labels, probe=probe, **named)
        return finish(start("benchmarks.breaching_peer", str(cases), python=python, **options))


if __name__ == "__main__":
    main()
