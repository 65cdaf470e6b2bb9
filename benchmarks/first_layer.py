"""What the first fully connected layer gives away, on real data and on random events.

    python -m benchmarks.first_layer --root DATA

DATA is as for `benchmarks.data_sets`. Victims are the first of a set's examples for attacks; the
attack's options are its defaults. Networks come from `benchmarks.victims`. Each row says: networks
and their stage, codec, share of frames that are exact (as a set), victims with all frames exact,
spike IoU after matching frames, victims whose whole train is right in order and example, victims
whose certificate says "consistent" and "ordered", those with wrong frames that it neither calls
inconsistent nor ambiguous, and CPU seconds per victim, mean and largest.
Ends with one line `RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from attacker.attacks.base import Budget
from attacker.attacks.first_layer import FirstLayer
from benchmarks.data_sets import mnist, parts_of
from benchmarks.updates import gradient_of_batch, observation
from benchmarks.victims import VICTIMS, trained_victim
from fedcore.data.datasets import Examples
from fedcore.data.encodings import encode
from fedcore.plan import Choice, EncodingSpec, ModelSpec, Training
from fedcore.seeds import stream
from fedcore.types import Knowledge, Reconstruction, TensorMap

NETWORKS = [n for n, v in VICTIMS.items() if v.model.name == "mlp" and v.encoding.name != "direct"]
ON_MNIST = [name for name in NETWORKS if VICTIMS[name].data == "mnist"]
CODECS = ("f32", "f16", "bf16", "int8")
EVENT_DENSITY = 0.03
EVENTS = ((8, 1), (16, 1), (8, 4), (16, 4), (20, 1), (40, 1), (100, 1))
"""Steps and batch size."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one victim."""

    exact: float
    iou: float
    whole: bool
    consistent: bool
    ordered: bool
    ambiguous: bool
    cpu_s: float

    @property
    def is_unwarned(self) -> bool:
        """Whether frames are wrong and the certificate raises no doubt."""
        return self.exact < 1 and self.consistent and not self.ambiguous


def attacked(
    model: ModelSpec,
    weights: TensorMap,
    train: np.ndarray,
    labels: np.ndarray,
    *,
    spec: EncodingSpec,
    codec: str,
) -> Score:
    """Send the update of a client with this train, and attack it."""
    seen = observation(
        model,
        spec,
        weights,
        gradient_of_batch(model, weights, train, labels),
        training=Training(batch_size=len(labels)),
        n_examples=len(labels),
        codec=Choice(name=codec),
    )
    started_s = time.process_time()
    (answer,) = FirstLayer().reconstruct(
        [seen],
        [Knowledge()],
        rng=stream(0, "attack"),
        budget=Budget(restarts=1, iterations=1),
        progress=lambda *_: None,
    )
    return scored(answer, train, cpu_s=time.process_time() - started_s)


def scored(answer: Reconstruction, train: np.ndarray, *, cpu_s: float) -> Score:
    """Against the truth, which the attack never saw."""
    if answer.trains is None:
        nothing = dict.fromkeys(("whole", "consistent", "ordered", "ambiguous"), False)
        return Score(exact=0.0, iou=0.0, **nothing, cpu_s=cpu_s)
    guess = answer.trains[0].reshape(-1, train[0, 0].size).astype(np.float64)
    truth = train.reshape(guess.shape).astype(np.float64)
    hits = Counter(map(bytes, guess.astype(np.uint8))) & Counter(map(bytes, truth.astype(np.uint8)))
    common = truth @ guess.T
    either = truth.sum(axis=1)[:, None] + guess.sum(axis=1) - common
    overlap = np.where(either > 0, common / np.maximum(either, 1), 1.0)
    matched = linear_sum_assignment(-overlap)
    by_example = (np.moveaxis(t.astype(np.uint8), 1, 0) for t in (answer.trains[0], train))
    guessed, true = (Counter(example.tobytes() for example in batch) for batch in by_example)
    return Score(
        exact=sum(hits.values()) / len(truth),
        iou=float(overlap[matched].mean()),
        whole=guessed == true,
        consistent=answer.certificate["consistent"] == 1,
        ordered=answer.certificate["ordered"] == 1,
        ambiguous=answer.certificate["ambiguous"] == 1,
        cpu_s=cpu_s,
    )


def row(title: str, scores: Sequence[Score]) -> dict[str, float]:
    """Print a row; its numbers."""
    n = len(scores)
    exact, iou, cpu_s = (
        [getattr(score, name) for score in scores] for name in ("exact", "iou", "cpu_s")
    )
    print(
        f"{title:34s} exact {np.mean(exact):.4f} all {sum(e == 1 for e in exact)}/{n} "
        f"IoU {np.mean(iou):.3f} whole {sum(s.whole for s in scores)}/{n} "
        f"consistent {sum(s.consistent for s in scores)}/{n} "
        f"ordered {sum(s.ordered for s in scores)}/{n} "
        f"inexact and not called so {sum(s.is_unwarned for s in scores)} "
        f"CPU {np.mean(cpu_s):.2f} s, at most {max(cpu_s):.2f}",
        flush=True,
    )
    return {"exact": float(np.mean(exact)), "iou": float(np.mean(iou)), "cpu_s": max(cpu_s)}


def encoded(
    name: str,
    stages: dict[str, TensorMap],
    examples: Examples,
    *,
    codecs: Sequence[str],
    n_victims: int,
) -> dict[str, float]:
    """Trains of single examples: figures for the last line."""
    victim, figures = VICTIMS[name], {}
    for stage, weights in stages.items():
        for codec in codecs:
            scores = []
            for i in range(n_victims):
                train = encode(victim.encoding, examples.inputs[[i]], stream(i, "victim"))
                scores.append(
                    attacked(
                        victim.model,
                        weights,
                        train,
                        examples.labels[[i]],
                        spec=victim.encoding,
                        codec=codec,
                    )
                )
            numbers = row(f"{name} {stage} {codec}", scores)
            kind = "iou" if codec == "int8" else "exact"
            figures[f"{name}_{stage}_{codec}_{kind}"] = numbers[kind]
    return figures


def event_coded(
    stages: dict[str, TensorMap], model: ModelSpec, examples: Examples, *, n_victims: int
) -> dict[str, float]:
    """Random events of 3 % density in batches, labels from MNIST."""
    figures = {}
    for n_steps, n_examples in EVENTS:
        spec = EncodingSpec(name="events", n_steps=n_steps)
        for stage in ("init", "trained"):
            scores = []
            for i in range(n_victims):
                draw = stream(i, "events").random((n_steps, n_examples, *model.input_shape))
                train = (draw < EVENT_DENSITY).astype(np.float32)
                labels = examples.labels[i * n_examples : (i + 1) * n_examples]
                scores.append(attacked(model, stages[stage], train, labels, spec=spec, codec="f32"))
            numbers = row(f"events T={n_steps} B={n_examples} {stage} f32", scores)
            figures[f"events_t{n_steps}_b{n_examples}_{stage}"] = numbers["exact"]
    return figures


def main() -> None:
    """Print the rows and the line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--victims", type=int, default=20, help="examples per row")
    parser.add_argument(
        "--events", type=int, default=3, help="batches per row of events; 0 for none"
    )
    parser.add_argument("--networks", nargs="*", default=ON_MNIST, choices=NETWORKS)
    parser.add_argument("--codecs", nargs="*", default=CODECS, choices=CODECS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    for name in args.networks:
        victims = parts_of(VICTIMS[name].data, args.root).victims
        stages = trained_victim(name, root=args.root, cache=args.cache)
        figures |= encoded(name, stages, victims, codecs=args.codecs, n_victims=args.victims)
    if args.events:
        stages = trained_victim("mlp-snn-t16", root=args.root, cache=args.cache)
        model = VICTIMS["mlp-snn-t16"].model
        test = mnist(args.root, split="test")
        figures |= event_coded(stages, model, test, n_victims=args.events)
    print("RESULT " + " ".join(f"{key}={value:.4f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
