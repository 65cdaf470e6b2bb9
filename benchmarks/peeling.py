"""Layer peeling on a trained network and real images, beside the class mean.

    python -m benchmarks.peeling conv-snn-t4 --root DATA

DATA is as for `benchmarks.victims`. Victims are the first test images; `--choose` takes training
images that no network saw instead, to choose settings on. An example of a batch is scored against
the image that fits it best, each image once, since an update has no order. The class mean is the
mean training image of the example's true class: what somebody who knows the label alone can say.
Ends with one line `RESULT key=value ...`, intervals at 95 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import process_time

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget
from benchmarks.updates import gradient_of_batch, observation
from benchmarks.victims import N_TRAINED_ON, STAGES, VICTIMS, mnist, trained_victim
from fedcore.data.datasets import Examples
from fedcore.data.encodings import encode
from fedcore.plan import Choice, Training
from fedcore.seeds import stream
from fedcore.strict import build as build_plugin
from fedcore.types import Knowledge, Missing, Observation, Reconstruction, TensorMap
from testbed.metrics import psnr_db, ssim
from testbed.statistics import mean_with_interval

SETTINGS: dict[str, dict[str, float]] = {
    "conv-snn-t4": {"jitter": 0.2, "total_variation": 0.1},
    "conv-snn-t8": {"jitter": 0.0, "total_variation": 0.2},
}
"""Options that were chosen on training images from 58,000 on, by network; else the defaults."""


def observe(name: str, weights: TensorMap, examples: Examples, *, client: int) -> Observation:
    """The update of a client with these examples."""
    victim = VICTIMS[name]
    train = encode(victim.encoding, examples.inputs, stream(client, "secret"))
    return observation(
        victim.model,
        victim.encoding,
        weights,
        gradient_of_batch(victim.model, weights, train, examples.labels),
        training=Training(batch_size=len(examples)),
        n_examples=len(examples),
        client=client,
    )


def in_order(answer: Reconstruction, truth: Examples) -> tuple[np.ndarray, np.ndarray]:
    """The attacker's choice and its labels, in the order of the images that fit best."""
    guess = answer.candidates[answer.chosen]
    errors = [[float(np.square(g - t).mean()) for g in guess] for t in truth.inputs]
    _, order = linear_sum_assignment(np.log10(np.maximum(errors, 1e-12)))
    return guess[order], answer.labels[answer.chosen][order]


def class_means(examples: Examples, labels: np.ndarray) -> np.ndarray:
    """The mean image of each label, [label, feature...]."""
    return np.stack([examples.inputs[examples.labels == label].mean(axis=0) for label in labels])


def interval(values: list[float | Missing]) -> str:
    """Mean and half-width."""
    estimate = mean_with_interval([v for v in values if not isinstance(v, Missing)])
    if isinstance(estimate, Missing) or isinstance(estimate.half_width, Missing):
        return "none"
    return f"{estimate.value:.2f}+-{estimate.half_width:.2f}"


def option(text: str) -> tuple[str, float]:
    """One of the attack's options, as given on the command line."""
    name, _, value = text.partition("=")
    return name, float(value)


def main() -> None:
    """Attack, and print scores of every victim and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim", choices=sorted(VICTIMS))
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--stage", choices=STAGES, default="trained")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--choose", action="store_true", help="on training images")
    parser.add_argument("--options", nargs="*", default=[], type=option, metavar="NAME=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights = trained_victim(args.victim, root=args.root, cache=args.cache)[args.stage]
    train, test = (mnist(args.root, split=split) for split in ("train", "test"))
    index = np.arange(args.images) + (N_TRAINED_ON if args.choose else 0)
    images = (train if args.choose else test).take(index)
    batches = [
        images.take(np.arange(start, start + args.batch))
        for start in range(0, args.images - args.batch + 1, args.batch)
    ]
    options = SETTINGS.get(args.victim, {}) | dict(args.options)
    seen = [observe(args.victim, weights, b, client=i) for i, b in enumerate(batches)]
    started_s = process_time()
    answers = build_plugin(ATTACKS, Choice(name="peeling", options=options)).reconstruct(
        seen,
        [Knowledge()] * len(seen),
        rng=stream(0, "attack"),
        budget=Budget(restarts=args.restarts, iterations=args.iterations),
        progress=lambda *_: None,
    )
    cpu_s = process_time() - started_s
    scores, nulls, similar, right = [], [], [], 0
    known = train.take(np.arange(N_TRAINED_ON))
    for answer, batch in zip(answers, batches, strict=True):
        found, labels = in_order(answer, batch)
        means = class_means(known, batch.labels)
        right += int((labels == batch.labels).sum())
        for truth, guess, mean in zip(batch.inputs, found, means, strict=True):
            scores.append(psnr_db(truth[None], guess[None]))
            similar.append(ssim(truth[None], guess[None]))
            nulls.append(psnr_db(truth[None], mean[None]))
        said = " ".join(f"{name}={value:.2g}" for name, value in answer.certificate.items())
        print(f"{answer.ticket.client_id:>10} own loss {answer.losses.min():.4f} {said}")
    print(
        f"RESULT victim={args.victim} stage={args.stage} batch={args.batch} n={len(scores)} "
        f"psnr_db={interval(scores)} ssim={interval(similar)} class_mean_db={interval(nulls)} "
        f"labels={right}/{len(scores)} cpu_s_per_image={cpu_s / len(scores):.2f}"
    )


if __name__ == "__main__":
    main()
