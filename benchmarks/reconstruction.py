"""Attacks on trained networks and real data, beside what anybody could guess.

    python -m benchmarks.reconstruction conv-snn-t4 --root DATA --attacks peeling relaxed-matching

DATA is as for `benchmarks.data_sets`, networks come from `benchmarks.victims`. Victims are the
first test examples; `--choose` takes examples for choosing instead, which no network saw and no
score is reported of. An example of a batch is scored against the one that fits it best, each once,
since an update has no order. Two guesses stand beside: the mean of all training examples, and the
mean of those of the true class, which is what somebody who knows the label alone can say.

Ends with a line `RESULT key=value ...` per attack, intervals at 95 % over the examples of one
network: PSNR in dB, SSIM of images, spike IoU of event frames, labels, and for peeled batches the
share of examples that were unmixed, which is measured on the readout itself: their spike trains
(or the means, where there are none) are the true ones to 0.1 %.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget
from attacker.peeling.matching import can_match_trains
from attacker.peeling.readout import peel
from benchmarks.data_sets import Parts, parts_of
from benchmarks.updates import gradient_of_batch, observation
from benchmarks.victims import STAGES, VICTIMS, Victim, trained_victim
from fedcore.data.datasets import Examples
from fedcore.data.encodings import encode
from fedcore.nn.arrays import to_tensor, to_tensors
from fedcore.nn.functional import features, step_weights
from fedcore.nn.models import build
from fedcore.plan import Choice, Training
from fedcore.seeds import stream
from fedcore.strict import build as build_plugin
from fedcore.types import Knowledge, Missing, Observation, Reconstruction, TensorMap
from testbed.metrics import psnr_db, ssim
from testbed.metrics.base import assign
from testbed.metrics.trains import spike_iou
from testbed.statistics import mean_with_interval

BUDGETS = {
    "first-layer": Budget(restarts=1, iterations=1),
    "inverting-gradients": Budget(restarts=1, iterations=300),
    "peeling": Budget(restarts=4, iterations=300),
    "r-gap": Budget(restarts=1, iterations=1),
    "relaxed-matching": Budget(restarts=1, iterations=300),
}
"""What each attack may spend on a victim."""

SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("conv-snn-t4", "peeling"): {"jitter": 0.2, "total_variation": 0.1},
    ("conv-snn-t8", "peeling"): {"jitter": 0.0, "total_variation": 0.2},
    ("fashion-conv-snn-t4", "peeling"): {"total_variation": 0.1},
    ("fashion-conv-snn-t8", "peeling"): {"jitter": 0.0, "total_variation": 0.2},
    ("faces-conv-snn-t4", "peeling"): {"total_variation": 0.1},
    ("cifar-conv-snn-t4", "peeling"): {"jitter": 0.0, "total_variation": 0.3},
    ("cifar-conv-relu", "peeling"): {"smooth_total_variation": 0.002},
    ("*", "inverting-gradients"): {"total_variation": 0.003},
}
"""Options by victim ("*": all others) and attack; chosen on examples for choosing."""

_SAME = 1e-3  # relative distance of features that are called recovered
_SMALLEST = 1e-12


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One client's update, and what is behind it."""

    seen: Observation
    train: np.ndarray
    truth: Examples


def send(victim: Victim, weights: TensorMap, examples: Examples, *, client: int) -> Sent:
    """The update of a client with these examples."""
    train = encode(victim.encoding, examples.inputs, stream(client, "secret"))
    seen = observation(
        victim.model,
        victim.encoding,
        weights,
        gradient_of_batch(victim.model, weights, train, examples.labels),
        training=Training(batch_size=len(examples)),
        n_examples=len(examples),
        client=client,
    )
    return Sent(seen=seen, train=train, truth=examples)


def in_order(answer: Reconstruction, truth: Examples) -> tuple[np.ndarray, np.ndarray]:
    """The attacker's choice and its labels, in the order of the examples that fit best."""
    guess = answer.candidates[answer.chosen]
    errors = [[float(np.square(g - t).mean()) for g in guess] for t in truth.inputs]
    order = assign(np.log10(np.maximum(errors, _SMALLEST)))
    return guess[order], answer.labels[answer.chosen][order]


def class_means(examples: Examples, labels: np.ndarray) -> np.ndarray:
    """The mean example of each label, [label, feature...]."""
    return np.stack([examples.inputs[examples.labels == label].mean(axis=0) for label in labels])


def n_unmixed(sent: Sent, *, victim: Victim) -> int:
    """Examples of a batch whose features the readout's gradient gives away."""
    spec, weights = victim.model, sent.seen.weights
    counts = step_weights(spec, n_steps=victim.encoding.n_steps)
    assert counts is not None  # noqa: S101
    network = build(spec)
    readout = peel(
        sent.seen.tensors["readout.weight"],
        sent.seen.tensors["readout.bias"],
        step_weights=counts.numpy() if can_match_trains(network) else None,
        n_examples=len(sent.truth),
        labels=None,
        rng=stream(0, "unmix", sent.seen.ticket.client_id),
    )
    with torch.no_grad():
        true = features(network, to_tensors(weights), to_tensor(sent.train)).flatten(2).numpy()
    share = (counts / counts.sum()).numpy()
    found = readout.means if readout.trains is None else np.tensordot(readout.trains, share, (1, 0))
    means = np.tensordot(share, true, 1)
    lengths = np.linalg.norm(means, axis=1)
    errors = np.linalg.norm(means[:, None] - found[None], axis=2) / lengths[:, None]
    order = assign(np.log10(np.maximum(errors, _SMALLEST)))
    return int((errors[np.arange(len(errors)), order] < _SAME).sum())


def interval(values: Sequence[float | Missing]) -> str:
    """Mean and half-width."""
    estimate = mean_with_interval([v for v in values if not isinstance(v, Missing)])
    if isinstance(estimate, Missing):
        return "none"
    if isinstance(estimate.half_width, Missing):
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f}+-{estimate.half_width:.2f}"


def _frames_iou(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Of event frames [example, time, ...]."""
    return spike_iou(np.moveaxis(truth, 1, 0), np.moveaxis(guess, 1, 0))


def _each(
    score: Callable[[np.ndarray, np.ndarray], float | Missing], truth: np.ndarray, guess: np.ndarray
) -> str:
    """Mean and interval over examples."""
    return interval([score(t[None], g[None]) for t, g in zip(truth, guess, strict=True)])


def scores(
    answers: Sequence[Reconstruction], sent: Sequence[Sent], known: Examples
) -> dict[str, str]:
    """What goes into the RESULT line."""
    pairs = [in_order(a, s.truth) for a, s in zip(answers, sent, strict=True)]
    guess = np.concatenate([images for images, _ in pairs])
    labels = np.concatenate([said for _, said in pairs])
    truth = np.concatenate([one.truth.inputs for one in sent])
    true_labels = np.concatenate([one.truth.labels for one in sent])
    of_class = class_means(known, true_labels)
    mean = np.broadcast_to(known.inputs.mean(axis=0), truth.shape)
    figures = {
        "n": str(len(truth)),
        "psnr_db": _each(psnr_db, truth, guess),
        "class_mean_db": _each(psnr_db, truth, of_class),
        "mean_db": _each(psnr_db, truth, mean),
        "ssim": _each(ssim, truth, guess),
        "class_mean_ssim": _each(ssim, truth, of_class),
        "labels": f"{int((labels == true_labels).sum())}/{len(labels)}",
    }
    if truth.ndim == 5:
        figures["iou"] = _each(_frames_iou, truth, guess)
        figures["class_mean_iou"] = _each(_frames_iou, truth, of_class)
    return figures


def attacked(
    attack: str,
    sent: Sequence[Sent],
    *,
    options: dict[str, float],
    budget: Budget,
    known: Sequence[Knowledge] | None = None,
) -> tuple[list[Reconstruction], float]:
    """Answers, and CPU seconds; nothing is known unless it is said."""
    started_s = process_time()
    answers = build_plugin(ATTACKS, Choice(name=attack, options=options)).reconstruct(
        [one.seen for one in sent],
        known or [Knowledge()] * len(sent),
        rng=stream(0, "attack"),
        budget=budget,
        progress=lambda *_: None,
    )
    return answers, process_time() - started_s


def report(
    attack: str, sent: Sequence[Sent], args: argparse.Namespace, *, parts: Parts
) -> dict[str, str]:
    """Attack, print every victim, and give the figures of the last line."""
    victim = VICTIMS[args.victim]
    chosen = SETTINGS.get((args.victim, attack), SETTINGS.get(("*", attack), {}))
    budget = BUDGETS[attack]
    answers, cpu_s = attacked(
        attack,
        sent,
        options=chosen | dict(args.options),
        budget=Budget(
            restarts=args.restarts or budget.restarts,
            iterations=args.iterations or budget.iterations,
        ),
    )
    for answer in answers if args.verbose else ():
        said = " ".join(f"{name}={value:.2g}" for name, value in answer.certificate.items())
        print(f"{answer.ticket.client_id:>10} own loss {answer.losses.min():.4f} {said}")
    refused = [answer.failed for answer in answers if answer.failed]
    if refused:
        return {"refused": f"{len(refused)}/{len(answers)}", "why": repr(refused[0])}
    figures = scores(answers, sent, parts.train)
    if attack == "peeling" and args.batch > 1:
        n_found = sum(n_unmixed(one, victim=victim) for one in sent)
        figures["unmixed"] = f"{n_found}/{args.batch * len(sent)}"
    own = np.mean([answer.losses[answer.chosen] for answer in answers])
    return figures | {"own_loss": f"{own:.4f}", "cpu_s": f"{cpu_s:.0f}"}


def option(text: str) -> tuple[str, Any]:
    """One of the attacks' options, as given on the command line: a number or a word."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    """Attack, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim", choices=sorted(VICTIMS))
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--attacks", nargs="+", choices=sorted(BUDGETS), default=["peeling"])
    parser.add_argument("--stage", choices=STAGES, default="trained")
    parser.add_argument("--seed", type=int, default=0, help="of the network")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--restarts", type=int)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--choose", action="store_true", help="on examples for choosing")
    parser.add_argument("--options", nargs="*", default=[], type=option, metavar="NAME=VALUE")
    parser.add_argument("--verbose", action="store_true", help="print every victim's certificate")
    args = parser.parse_args()
    torch.set_num_threads(1)
    victim = VICTIMS[args.victim]
    stages = trained_victim(args.victim, root=args.root, cache=args.cache, seed=args.seed)
    parts = parts_of(victim.data, args.root)
    source = parts.choosing if args.choose else parts.victims
    sent = [
        send(
            victim,
            stages[args.stage],
            source.take(np.arange(start, start + args.batch)),
            client=client,
        )
        for client, start in enumerate(range(0, args.examples - args.batch + 1, args.batch))
    ]
    for attack in args.attacks:
        figures = report(attack, sent, args, parts=parts)
        print(
            f"RESULT victim={args.victim} seed={args.seed} stage={args.stage} attack={attack} "
            f"batch={args.batch} " + " ".join(f"{name}={text}" for name, text in figures.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
