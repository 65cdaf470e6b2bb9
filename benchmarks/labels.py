"""How well label counts are read from a batch's gradient, untrained and trained.

    python -m benchmarks.labels --root DATA [--part untrained|trained] [--network conv-relu ...]

"untrained" needs no DATA: a convolutional network at its start on scikit-learn's digits (28x28),
with labels drawn apart from the images where there are 62 classes. "trained" attacks the networks
of `benchmarks.victims` at three stages on MNIST's test images; the attacker holds the last 2,000
training images, which no network was trained on. Its clients are of four kinds: all classes, two,
four, and Dirichlet(0.5).

Printed: the share of labels found (multiset overlap, which is also the share of instances
recovered), the share of classes whose presence is right (LeAcc) and whose number is right (LnAcc).
Nothing is chosen here. Ends with one line `RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from attacker.labels import LABEL_ESTIMATORS
from attacker.labels.counts import rounded
from attacker.labels.readout import read
from benchmarks.data_sets import parts_of
from benchmarks.updates import gradient_of_batch, observation
from benchmarks.victims import STAGES, VICTIMS, trained_victim
from fedcore.data.datasets import Examples
from fedcore.data.encodings import encode
from fedcore.nn.arrays import to_tensor
from fedcore.nn.models import build, initial_weights
from fedcore.plan import EncodingSpec, ModelSpec, Training
from fedcore.seeds import stream
from fedcore.types import Knowledge, Observation, TensorMap
from testbed.training import accuracy

AUXILIARY = ("auxiliary", "class-means")
UNTRAINED = tuple(name for name in LABEL_ESTIMATORS.names() if name not in AUXILIARY)
ATTACKED = ("conv-relu", "conv-snn-t4")
KINDS = ("all", "two", "four", "dirichlet")
UNTRAINED_SIZES = (4, 16, 64, 256)
TRAINED_SIZES = (16, 64)


class Score(NamedTuple):
    """Of one client, or a mean over clients.

    Attributes:
        overlap: share of labels found.
        presence: share of classes that are rightly said to be there or not (LeAcc).
        number: share of classes whose count is right (LnAcc).
    """

    overlap: float
    presence: float
    number: float


def score(found: np.ndarray, true: np.ndarray) -> Score:
    """Of counts [class]."""
    return Score(
        overlap=float(np.minimum(found, true).sum() / true.sum()),
        presence=float(np.mean((found > 0) == (true > 0))),
        number=float(np.mean(found == true)),
    )


def main() -> None:
    """Print a table of each part and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--part", choices=("untrained", "trained"), action="append")
    parser.add_argument("--network", choices=sorted(VICTIMS), nargs="+", default=ATTACKED)
    parser.add_argument("--stage", choices=STAGES, nargs="+", default=STAGES)
    parser.add_argument("--clients", type=int, default=12, help="of each kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = args.part or ["untrained", "trained"]
    facts: dict[str, float] = {}
    if "untrained" in parts:
        facts |= untrained(args.clients)
    if "trained" in parts:
        if args.root is None:
            parser.error("part 'trained' needs --root")
        for network in args.network:
            stages = trained_victim(network, root=args.root, cache=args.cache)
            chosen = {stage: stages[stage] for stage in args.stage}
            facts |= trained(network, chosen, args.clients, root=args.root)
    print("RESULT " + " ".join(f"{key}={value:.3f}" for key, value in facts.items()))


def untrained(n_clients: int) -> dict[str, float]:
    """The lowest overlap of any number of classes and batch size, by estimator."""
    lowest = dict.fromkeys(UNTRAINED, 1.0)
    _print_head("classes, batch", UNTRAINED)
    for n_classes in (10, 62):
        model = ModelSpec(name="convnet", input_shape=(1, 28, 28), n_classes=n_classes)
        for size in UNTRAINED_SIZES:
            scores: dict[str, list[Score]] = {name: [] for name in UNTRAINED}
            for trial in range(n_clients):
                labels, inputs = _random_batch(n_classes, size, stream(trial, "batch", size))
                weights = initial_weights(model, trial)
                seen = _observe(model, EncodingSpec(), weights, inputs, labels, trial=trial)
                for name, found in _estimates(UNTRAINED, seen, Knowledge()):
                    scores[name].append(score(found, np.bincount(labels, minlength=n_classes)))
            means = {name: _mean(of_name) for name, of_name in scores.items()}
            _print_row(f"{n_classes}, {size}", means)
            lowest = {name: min(lowest[name], means[name].overlap) for name in UNTRAINED}
    return {f"untrained_min_{name}": value for name, value in lowest.items()}


def trained(
    network: str, stages: dict[str, TensorMap], n_clients: int, *, root: Path
) -> dict[str, float]:
    """The mean overlap over kinds of clients at batch 64, by network, stage and estimator."""
    names = LABEL_ESTIMATORS.names()
    parts = parts_of(VICTIMS[network].data, root)
    held, test = parts.choosing, parts.victims
    told = Knowledge(auxiliary_inputs=held.inputs, auxiliary_labels=held.labels)
    facts: dict[str, float] = {}
    for stage, weights in stages.items():
        right = accuracy(VICTIMS[network].model, VICTIMS[network].encoding, weights, test)
        print(f"\n{network}, {stage}: accuracy {right:.4f}")
        _print_head("clients, batch", names)
        facts[f"{network}_{stage}_accuracy"] = right
        for size in TRAINED_SIZES:
            found = _of_kinds(network, weights, test, told, size=size, n_clients=n_clients)
            if size == TRAINED_SIZES[-1]:
                for name in ("flat", *AUXILIARY):
                    mean = float(np.mean([found[kind][name].overlap for kind in KINDS]))
                    facts[f"{network}_{stage}_{name}"] = mean
    return facts


def _of_kinds(
    network: str,
    weights: TensorMap,
    test: Examples,
    told: Knowledge,
    *,
    size: int,
    n_clients: int,
) -> dict[str, dict[str, Score]]:
    """Mean scores by kind of client and estimator; prints a row for each kind."""
    victim, names = VICTIMS[network], LABEL_ESTIMATORS.names()
    means = {}
    for kind in KINDS:
        scores: dict[str, list[Score]] = {name: [] for name in names}
        for trial in range(n_clients):
            rng = stream(trial, "client", kind, size)
            index = _client(kind, test.labels, size, rng)
            labels = test.labels[index]
            seen = _observe(
                victim.model, victim.encoding, weights, test.inputs[index], labels, trial=trial
            )
            for name, found in _estimates(names, seen, told):
                scores[name].append(score(found, np.bincount(labels, minlength=10)))
        means[kind] = {name: _mean(of_name) for name, of_name in scores.items()}
        _print_row(f"{kind}, {size}", means[kind])
    return means


def _client(kind: str, labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of a client's examples."""
    n_there = {"two": 2, "four": 4}.get(kind, 10)
    own = rng.choice(10, n_there, replace=False)
    shares = (
        rng.dirichlet(np.full(10, 0.5)) if kind == "dirichlet" else np.full(n_there, 1 / n_there)
    )
    drawn = rng.choice(own, size, p=shares)
    return np.array([rng.choice(np.flatnonzero(labels == label)) for label in drawn])


def _random_batch(
    n_classes: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Digits resized to 28x28, with labels of their own or, for other classes, drawn apart."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    index = rng.integers(len(digits.images), size=size)
    images = to_tensor((digits.images[index, None] / 16).astype(np.float32))
    large = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear")
    labels = digits.target[index] if n_classes == 10 else rng.integers(n_classes, size=size)
    return labels.astype(np.int64), large.numpy()


def _observe(
    model: ModelSpec,
    encoding: EncodingSpec,
    weights: TensorMap,
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    trial: int,
) -> Observation:
    """What a client with these examples sends."""
    train = encode(encoding, inputs, stream(trial, "secret"))
    return observation(
        model,
        encoding,
        weights,
        gradient_of_batch(model, weights, train, labels),
        training=Training(batch_size=len(labels)),
        n_examples=len(labels),
        client=trial,
    )


def _estimates(
    names: Sequence[str], seen: Observation, told: Knowledge
) -> Iterator[tuple[str, np.ndarray]]:
    """Rounded counts by estimator."""
    network = build(seen.plan.model)
    readout = read(seen, told, gradient=seen.tensors, n_examples=seen.n_examples, network=network)
    for name in names:
        yield name, rounded(LABEL_ESTIMATORS.get(name)(readout), total=seen.n_examples)


def _mean(scores: Sequence[Score]) -> Score:
    return Score(*(float(column) for column in np.mean(scores, axis=0)))


def _print_head(what: str, names: Sequence[str]) -> None:
    print(f"{what:>16} " + " ".join(f"{name:>15}" for name in names))
    print(f"{'':>16} " + " ".join(f"{'all  Le   Ln':>15}" for _ in names))


def _print_row(what: str, means: dict[str, Score]) -> None:
    cells = (" ".join(f"{value:4.2f}" for value in mean) for mean in means.values())
    print(f"{what:>16} " + " ".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
