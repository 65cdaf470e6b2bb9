"""Our gradient inversion beside breaching's: the same victims, the same run, one thread each.

    python -m benchmarks.attacks --data DATA --breaching-python VENV/bin/python

DATA is a folder of 32x32 pictures as `image-folder` reads it (`test/<class>/*`). Victims are its
first pictures in file order; the network is LeNet with sigmoid and weights from U(-0.5, 0.5), seed
0, as Zhu et al. attack it. Speed is iterations of the matching objective, added up over victims,
per CPU-second of one thread. Ends with one line `RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacker.attacks import ATTACKS
from attacker.attacks.base import Attack, Budget
from attacker.batch import Batch, Victim
from attacker.inputs import input_view
from attacker.objectives import cosine_distance
from benchmarks.processes import finish, start
from benchmarks.updates import gradient_of_batch, observation
from fedcore.data.datasets import dataset_of
from fedcore.nn.arrays import to_tensors
from fedcore.nn.models import build as build_model
from fedcore.plan import Choice, EncodingSpec, ModelSpec, Training
from fedcore.seeds import stream
from fedcore.strict import build
from fedcore.types import Knowledge, Observation, TensorMap
from testbed.metrics import METRICS
from testbed.statistics import mean_with_interval

__all__ = ["main"]

SPEC = ModelSpec(name="lenet", input_shape=(3, 32, 32), activation="sigmoid")
N_SPEED = 32
STRENGTH_ITERATIONS = 3200
TOTAL_VARIATION = 0.2  # breaching's own weight, for the same work per iteration


def main() -> None:
    """Measure, print, and end with the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--breaching-python", type=Path)
    parser.add_argument("--iterations", type=int, default=200, help="for speed")
    parser.add_argument("--victims", type=int, default=4, help="for strength")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = victims(args.data, n=max(N_SPEED, args.victims))
    weights = lenet_weights(SPEC, seed=0)
    found = {
        "ours_its_per_cpu_s": speed(weights, images, labels, n=args.iterations, compiled=False)
    }
    if args.compile:
        found["compiled_its_per_cpu_s"] = speed(
            weights, images, labels, n=args.iterations, compiled=True
        )
    probe = stream(0, "probe").random(SPEC.input_shape, dtype=np.float32)
    found["ours_cosine"] = cosine_at(probe, weights, images[0], labels[0])
    found |= strength("idlg", weights, images[: args.victims], labels[: args.victims])
    if args.breaching_python:
        with tempfile.TemporaryDirectory() as folder:
            cases = Path(folder) / "cases.npz"
            np.savez(
                cases,
                images=images,
                labels=labels,
                probe=probe,
                **{f"weights/{name}": tensor for name, tensor in weights.items()},  # type: ignore[arg-type]
            )
            found |= peer(args.breaching_python, cases, n_victims=args.victims)
        found["speed_ratio"] = found["ours_its_per_cpu_s"] / found["breaching_its_per_cpu_s"]
        found["cosine_difference"] = abs(found["ours_cosine"] - found["breaching_cosine"])
    print("RESULT " + " ".join(f"{key}={value:.6g}" for key, value in found.items()))


def victims(root: Path, *, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first test pictures of a folder, one class after the other in turn."""
    examples = dataset_of(Choice(name="image-folder")).load(root, split="test")
    by_class = [np.flatnonzero(examples.labels == c) for c in range(len(examples.class_names))]
    turns = [
        places[k] for k in range(max(map(len, by_class))) for places in by_class if k < len(places)
    ]
    chosen = np.array(turns[:n])
    return examples.inputs[chosen], examples.labels[chosen]


def lenet_weights(spec: ModelSpec, *, seed: int) -> dict[str, np.ndarray]:
    """All from U(-0.5, 0.5), as in the code of Zhu et al. 2019."""
    return {
        name: stream(seed, "lenet", name).uniform(-0.5, 0.5, tuple(p.shape)).astype(np.float32)
        for name, p in build_model(spec).named_parameters()
    }


def speed(
    weights: TensorMap, images: np.ndarray, labels: np.ndarray, *, n: int, compiled: bool
) -> float:
    """Victim iterations of cosine and total variation per CPU-second, 32 victims in one call."""
    batch = batch_of(weights, images[:N_SPEED], labels[:N_SPEED])
    rows = batch.starts("uniform", seed=0)
    evaluate = torch.compile(batch.evaluate) if compiled else batch.evaluate
    evaluate(rows)
    started_s = time.process_time()
    for _ in range(n):
        rows = (rows - 0.01 * evaluate(rows)[1].sign()).clamp(0, 1)
    return N_SPEED * n / (time.process_time() - started_s)


def batch_of(weights: TensorMap, images: np.ndarray, labels: np.ndarray) -> Batch:
    """The victims as Inverting Gradients attacks them."""
    attack = build(
        ATTACKS,
        Choice(name="inverting-gradients", options={"total_variation": TOTAL_VARIATION}),
    )
    cases = [
        observe(weights, x, y, number=i)
        for i, (x, y) in enumerate(zip(images, labels, strict=True))
    ]
    return Batch(
        [
            Victim(
                ticket=seen.ticket,
                weights=seen.weights,
                gradient=seen.tensors,
                scale=1.0,
                labels=(np.array([label]),),
            )
            for seen, label in zip(cases, labels, strict=True)
        ],
        network=build_model(SPEC),
        view=input_view(EncodingSpec(), input_shape=SPEC.input_shape, batch_size=1),
        n_examples=1,
        restarts=1,
        objective=partial(attack.loss, n_spatial=2),  # type: ignore[attr-defined]
    )


def cosine_at(probe: np.ndarray, weights: TensorMap, image: np.ndarray, label: int) -> float:
    """Our objective, without prior, between the gradients at a probe and at a victim's image."""
    probed = observe(weights, probe, label, number=0).tensors
    observed = observe(weights, image, label, number=0).tensors
    return float(cosine_distance(to_tensors(probed), to_tensors(observed)))


def strength(
    name: str, weights: TensorMap, images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """PSNR and CPU-seconds per victim of one of our attacks, all victims in one call."""
    attack: Attack = build(ATTACKS, Choice(name=name))
    seen = [
        observe(weights, x, y, number=i)
        for i, (x, y) in enumerate(zip(images, labels, strict=True))
    ]
    started_s = time.process_time()
    answers = attack.reconstruct(
        seen,
        [Knowledge() for _ in seen],
        rng=stream(0, "benchmark"),
        budget=Budget(restarts=1, iterations=STRENGTH_ITERATIONS),
        progress=lambda *_: None,
    )
    cpu_s = (time.process_time() - started_s) / len(seen)
    metric = METRICS.get("psnr")
    scores = [
        metric.score(x[None], answer.candidates[answer.chosen])
        for x, answer in zip(images, answers, strict=True)
    ]
    estimate = mean_with_interval([s for s in scores if isinstance(s, float)])
    print(f"{name}: PSNR {estimate}, {cpu_s:.1f} CPU-s per victim")
    return {f"{name}_db": float(np.mean(scores)), f"{name}_cpu_s": cpu_s}  # type: ignore[arg-type]


def observe(weights: TensorMap, image: np.ndarray, label: int, *, number: int) -> Observation:
    """What a client would send for one image."""
    sent = gradient_of_batch(SPEC, weights, image[None, None], np.array([label]))
    training = Training(batch_size=1)
    return observation(SPEC, EncodingSpec(), weights, sent, training=training, client=number)


def peer(python: Path, cases: Path, *, n_victims: int) -> dict[str, float]:
    """Inverting Gradients of breaching for speed, its deepleakage for strength."""
    fast = _run(python, cases, attack="invertinggradients", iterations=600, victims=2)
    strong = _run(python, cases, attack="deepleakage", iterations=100, victims=n_victims)
    psnr = [-10 * np.log10(error) for error in strong["mse"]]
    cpu_s = strong["cpu_s"] / n_victims
    print(f"breaching deepleakage: PSNR {mean_with_interval(psnr)}, {cpu_s:.1f} CPU-s per victim")
    return {
        "breaching_its_per_cpu_s": fast["victim_iterations"] / fast["cpu_s"],
        "breaching_cosine": fast["cosine_at_probe"],
        "breaching_deepleakage_db": float(np.mean(psnr)),
        "breaching_deepleakage_cpu_s": cpu_s,
    }


def _run(python: Path, cases: Path, **options: object) -> Any:
    return finish(start("benchmarks.breaching_peer", str(cases), python=python, **options))


if __name__ == "__main__":
    main()
