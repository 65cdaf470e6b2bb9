"""Twelve defences against one attack in one call, as it is and adapting to what it sees.

    python -m benchmarks.defences digits
    python -m benchmarks.defences mnist --root DATA --first 0 --images 4

"digits" are scikit-learn's under an untrained conventional network, "mnist" the publisher's test
images under the trained victim "conv-relu" (see `benchmarks.victims`; DATA is a folder that
torchvision may write to). Each image is one client with a batch of one, each defence an update of
its own; the label is read off the update. Ends with one line `RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget
from benchmarks.data_sets import mnist
from benchmarks.updates import gradient_of_batch, observation
from benchmarks.victims import VICTIMS, trained_victim
from fedcore.data.datasets import dataset_of
from fedcore.defences.base import chain
from fedcore.nn.models import initial_weights
from fedcore.plan import Choice, EncodingSpec, ModelSpec, Training
from fedcore.seeds import stream
from fedcore.strict import build as plugin
from fedcore.types import Knowledge, Observation, Reconstruction, TensorMap

RESTARTS = 2
F32 = Choice(name="f32")


@dataclass(frozen=True, kw_only=True)
class Defended:
    """A defence and the codec behind it."""

    label: str
    defences: tuple[Choice, ...] = ()
    codec: Choice = F32


def _defence(label: str, name: str, **options: float) -> Defended:
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


def digits(*, first: int, images: int) -> Subjects:
    """Digits behind number 1000, under initial weights."""
    examples = dataset_of(Choice(name="digits")).load(Path(), split="train")
    chosen = examples.take(np.arange(1000 + first, 1000 + first + images))
    model = ModelSpec(name="convnet")
    return Subjects(
        model=model,
        weights=initial_weights(model, 0),
        inputs=chosen.inputs,
        labels=chosen.labels,
        others=examples.inputs[:1000].mean(axis=0),
    )


def mnist_images(*, root: Path, cache: Path, first: int, images: int) -> Subjects:
    """Test images under trained weights."""
    chosen = mnist(root, split="test").take(np.arange(first, first + images))
    return Subjects(
        model=VICTIMS["conv-relu"].model,
        weights=trained_victim("conv-relu", root=root, cache=cache)["trained"],
        inputs=chosen.inputs,
        labels=chosen.labels,
        others=mnist(root, split="train").inputs[:10_000].mean(axis=0),
    )


def defended_update(subjects: Subjects, number: int, defended: Defended) -> Observation:
    """One client's update, as it arrives."""
    slopes = gradient_of_batch(
        subjects.model,
        subjects.weights,
        subjects.inputs[None, [number]].astype(np.float32),
        subjects.labels[[number]],
    )
    steps = chain(defended.defences)
    examples = steps.example_gradients({name: g[None] for name, g in slopes.items()})
    rng = stream(number, "noise", defended.label)
    return observation(
        subjects.model,
        EncodingSpec(),
        subjects.weights,
        steps.update({name: g.mean(axis=0) for name, g in examples.items()}, rng),
        training=Training(batch_size=1),
        client=number,
        codec=defended.codec,
    )


def attack(
    seen: list[Observation], *, adaptive: bool, iterations: int
) -> tuple[list[Reconstruction], float]:
    """All answers of one call, and its CPU seconds."""
    chosen = Choice(name="inverting-gradients", options={"adaptive": adaptive})
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


def table(
    subjects: Subjects, plain: list[Reconstruction], adaptive: list[Reconstruction]
) -> dict[str, tuple[float, float]]:
    """Print a line per defence; return the mean PSNR of both attacks in dB."""
    n = len(subjects.inputs)
    scores = {}
    print(f"{'defence':16} {'plain':>7} {'adaptive':>9} {'label right':>12}  adapted")
    for k, defended in enumerate(TWELVE):
        mine = slice(k * n, (k + 1) * n)
        means = [
            float(np.mean([psnr_db(a.candidates[a.chosen, 0], x) for a, x in pairs]))
            for pairs in (
                list(zip(plain[mine], subjects.inputs, strict=True)),
                list(zip(adaptive[mine], subjects.inputs, strict=True)),
            )
        ]
        right = np.mean(
            [
                a.labels[a.chosen, 0] == y
                for a, y in zip(adaptive[mine], subjects.labels, strict=True)
            ]
        )
        scores[defended.label] = (means[0], means[1])
        words = ", ".join(
            f"{name} {value:.2g}" for name, value in adaptive[mine][0].certificate.items()
        )
        print(f"{defended.label:16} {means[0]:7.1f} {means[1]:9.1f} {right:12.2f}  {words}")
    noise = stream(0, "null").random(subjects.inputs.shape)
    for name, guesses in (("noise", noise), ("mean image", [subjects.others] * n)):
        score = np.mean([psnr_db(g, x) for g, x in zip(guesses, subjects.inputs, strict=True)])
        scores[name] = (float(score), float(score))
        print(f"{name:16} {score:7.1f} {score:9.1f}")
    return scores


def main() -> None:
    """Attack twice, and print the table."""
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
    subjects = (
        digits(**chosen)
        if args.data == "digits"
        else mnist_images(root=args.root, cache=args.cache, **chosen)
    )
    seen = [defended_update(subjects, i, d) for d in TWELVE for i in range(args.images)]
    plain, plain_s = attack(seen, adaptive=False, iterations=args.iterations)
    adaptive, adaptive_s = attack(seen, adaptive=True, iterations=args.iterations)
    scores = table(subjects, plain, adaptive)
    said = " ".join(
        f"{name.replace(' ', '_').replace(',', '')}={a:.1f}/{b:.1f}"
        for name, (a, b) in scores.items()
    )
    print(
        f"RESULT data={args.data} first={args.first} images={args.images} restarts={RESTARTS} "
        f"iterations={args.iterations} plain_cpu_s={plain_s:.1f} adaptive_cpu_s={adaptive_s:.1f} "
        f"{said}"
    )


if __name__ == "__main__":
    main()
