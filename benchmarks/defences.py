"""Defences against one attack, as it is and adapting to what it sees, and beside R-GAP.

    python -m benchmarks.defences digits
    python -m benchmarks.defences mnist --root DATA --first 0 --images 4

"digits" are scikit-learn's under an untrained conventional network, "mnist" the publisher's test
images under the trained victim "conv-relu" (see `benchmarks.victims`; DATA is a folder that
torchvision may write to). Each image is one client with a batch of one, each defence an update of
its own; the label is read off the update. Twelve defences of the update are attacked in one call,
those that look at the examples or withhold tensors in a second, and one that changes the network
(PRECODE, trained with it) in a third; R-GAP searches for nothing. Ends with one line
`RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget
from benchmarks.data_sets import mnist
from benchmarks.updates import gradient_of_batch, observation
from benchmarks.victims import VICTIMS, trained_victim
from fedcore.data.datasets import dataset_of
from fedcore.defences.base import chain
from fedcore.nn.arrays import to_tensor, to_tensors
from fedcore.nn.models import build, initial_weights
from fedcore.nn.sensitivity import BatchView
from fedcore.plan import Choice, EncodingSpec, ModelSpec, Training
from fedcore.seeds import stream
from fedcore.strict import build as plugin
from fedcore.types import Knowledge, Observation, Reconstruction, TensorMap

RESTARTS = 2
ATTACKED_BY = {
    "plain": Choice(name="inverting-gradients", options={"adaptive": False}),
    "adaptive": Choice(name="inverting-gradients"),
    "r-gap": Choice(name="r-gap"),
}
F32 = Choice(name="f32")


@dataclass(frozen=True, kw_only=True)
class Defended:
    """A defence and the codec behind it."""

    label: str
    defences: tuple[Choice, ...] = ()
    codec: Choice = F32


def _defence(label: str, name: str, **options: Any) -> Defended:
    return Defended(label=label, defences=(Choice(name=name, options=options),))


TWELVE = (
    Defended(label="none"),
    _defence("gaussian 0.001", "gaussian", std=0.001),
    _defence("gaussian 0.01", "gaussian", std=0.01),
    _defence("gaussian 0.1", "gaussian", std=0.1),
    _defence("laplace 0.01", "laplace", scale=0.01),
    _defence("dp-sgd 1, 0.1", "dp-sgd", max_norm=1.0, noise_multiplier=0.1, batch_size=1),
    _defence("top 0.1", "topk", fraction=0.1),
    _defence("top 0.01", "topk", fraction=0.01),
    _defence("sign", "sign"),
    Defended(label="int8", codec=Choice(name="int8")),
    Defended(label="int4", codec=Choice(name="int4")),
    _defence("qsgd 7", "qsgd", levels=7),
)
KNOWING = (
    _defence("soteria 0.2", "soteria", fraction=0.2),
    _defence("soteria 0.8", "soteria", fraction=0.8),
    _defence("no hidden bias", "withhold", names=["conv*.bias"]),
)
CHANGING = (_defence("precode", "precode"),)


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """Who is attacked.

    Attributes:
        inputs: in [0, 1], [example, channel, height, width].
        others: mean image of the training examples, which anybody could guess.
    """

    model: ModelSpec
    weights: TensorMap
    inputs: np.ndarray
    labels: np.ndarray
    others: np.ndarray


def digits(*, first: int, images: int, defences: tuple[Choice, ...] = ()) -> Subjects:
    """Digits behind number 1000, under initial weights."""
    examples = dataset_of(Choice(name="digits")).load(Path(), split="train")
    chosen = examples.take(np.arange(1000 + first, 1000 + first + images))
    model = chain(defences).model(ModelSpec(name="convnet"))
    return Subjects(
        model=model,
        weights=initial_weights(model, 0),
        inputs=chosen.inputs,
        labels=chosen.labels,
        others=examples.inputs[:1000].mean(axis=0),
    )


def mnist_images(
    *, root: Path, cache: Path, first: int, images: int, victim: str = "conv-relu"
) -> Subjects:
    """Test images under trained weights."""
    chosen = mnist(root, split="test").take(np.arange(first, first + images))
    return Subjects(
        model=VICTIMS[victim].model,
        weights=trained_victim(victim, root=root, cache=cache)["trained"],
        inputs=chosen.inputs,
        labels=chosen.labels,
        others=mnist(root, split="train").inputs[:10_000].mean(axis=0),
    )


def defended_update(subjects: Subjects, number: int, defended: Defended) -> Observation:
    """One client's update, as it arrives."""
    train = subjects.inputs[None, [number]].astype(np.float32)
    slopes = gradient_of_batch(
        subjects.model,
        subjects.weights,
        train,
        subjects.labels[[number]],
        noise=stream(number, "draws"),
    )
    steps = chain(defended.defences)
    examples = steps.example_gradients({name: g[None] for name, g in slopes.items()})
    view = BatchView(build(subjects.model), to_tensors(subjects.weights), to_tensor(train))
    mean = {name: g.mean(axis=0) for name, g in examples.items()}
    rng = stream(number, "noise", defended.label)
    return observation(
        subjects.model,
        EncodingSpec(),
        subjects.weights,
        steps.update(steps.informed_update(mean, view), rng),
        training=Training(batch_size=1),
        client=number,
        codec=defended.codec,
    )


def attack(
    seen: list[Observation], chosen: Choice, *, iterations: int
) -> tuple[list[Reconstruction], float]:
    """All answers of one call, and its CPU seconds."""
    started_s = time.process_time()
    answers = plugin(ATTACKS, chosen).reconstruct(
        seen,
        [Knowledge()] * len(seen),
        rng=stream(0, "attack"),
        budget=Budget(restarts=RESTARTS, iterations=iterations),
        progress=lambda *_: None,
    )
    return answers, time.process_time() - started_s


def psnr_db(guess: np.ndarray, truth: np.ndarray) -> float:
    """Of one image, with peak 1."""
    return float(-10 * np.log10(max(float(np.mean((guess - truth) ** 2)), 1e-12)))


def mean_psnr_db(answers: list[Reconstruction], truths: np.ndarray) -> float:
    """Of the attacker's choices; NaN where it refused."""
    scores = [
        psnr_db(answer.candidates[answer.chosen, 0], truth) if not answer.failed else np.nan
        for answer, truth in zip(answers, truths, strict=True)
    ]
    return float(np.mean(scores))


def attacked(
    what: str, subjects: Subjects, defences: tuple[Defended, ...], *, iterations: int
) -> list[str]:
    """Print a line per defence and one of CPU seconds; return them as keys and values."""
    n = len(subjects.inputs)
    seen = [defended_update(subjects, i, d) for d in defences for i in range(n)]
    found, seconds = {}, {}
    for name, chosen in ATTACKED_BY.items():
        found[name], seconds[name] = attack(seen, chosen, iterations=iterations)
    said = [f"{what}_{name}_cpu_s={value:.1f}" for name, value in seconds.items()]
    print(f"{'defence':16} {'plain':>7} {'adaptive':>9} {'r-gap':>7} {'label right':>12}  adapted")
    for k, defended in enumerate(defences):
        mine = {name: answers[k * n : (k + 1) * n] for name, answers in found.items()}
        scores = [mean_psnr_db(answers, subjects.inputs) for answers in mine.values()]
        labels = [answer.labels[answer.chosen, 0] for answer in mine["adaptive"]]
        certificate = mine["adaptive"][0].certificate
        words = ", ".join(f"{name} {value:.2g}" for name, value in certificate.items())
        print(
            f"{defended.label:16} {scores[0]:7.1f} {scores[1]:9.1f} {scores[2]:7.1f} "
            f"{np.mean(labels == subjects.labels):12.2f}  {words}"
        )
        key = defended.label.replace(" ", "_").replace(",", "")
        said.append(f"{key}=" + "/".join(f"{score:.1f}" for score in scores))
    return said


def null_scores(subjects: Subjects) -> list[str]:
    """What anybody can guess: print it, and return it as keys and values."""
    said = []
    noise = stream(0, "null").random(subjects.inputs.shape)
    means = [subjects.others] * len(subjects.inputs)
    for name, guesses in (("noise", noise), ("mean image", means)):
        pairs = zip(guesses, subjects.inputs, strict=True)
        score = float(np.mean([psnr_db(guess, truth) for guess, truth in pairs]))
        print(f"{name:16} {score:7.1f}")
        said.append(f"{name.replace(' ', '_')}={score:.1f}")
    return said


def main() -> None:
    """Attack everything, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("digits", "mnist"))
    parser.add_argument("--root", type=Path, default=Path(".leakwatt/data"))
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--first", type=int, default=0, help="number of the first image")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {"first": args.first, "images": args.images}
    if args.data == "digits":
        usual, changed = digits(**chosen), digits(**chosen, defences=CHANGING[0].defences)
    else:
        of_mnist = partial(mnist_images, root=args.root, cache=args.cache, **chosen)
        usual, changed = of_mnist(), of_mnist(victim="conv-relu-precode")
    said = [
        *attacked("twelve", usual, TWELVE, iterations=args.iterations),
        *attacked("knowing", usual, KNOWING, iterations=args.iterations),
        *attacked("changing", changed, CHANGING, iterations=args.iterations),
        *null_scores(usual),
    ]
    print(
        f"RESULT data={args.data} first={args.first} images={args.images} restarts={RESTARTS} "
        f"iterations={args.iterations} {' '.join(said)}"
    )


if __name__ == "__main__":
    main()
