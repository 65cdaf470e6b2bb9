"""Batch normalisation and gradient inversion, with and without the batch's statistics.

    python -m benchmarks.batch_norm --root DATA

DATA is as for `benchmarks.data_sets`. One conv net of `benchmarks.victims` learned MNIST without
normalisation, another one with "batch-train"; fixed at its statistics on 2,000 training images the
latter is attacked as "batch-eval", too. Victims are the first test images, labels are granted, and
every attack has the same numbers of restarts and iterations. Settings were chosen on training
images that no network saw (`--choose`). Prints a line per network, batch size and attack: PSNR in
dB with the half-width of a 95 % t-interval over the images of this one network, those of a batch in
the order that fits best. Ends with one line `RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import process_time
from typing import Any, Literal

import numpy as np
import torch

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget
from benchmarks.data_sets import parts_of
from benchmarks.reconstruction import Sent, in_order, interval, option, send
from benchmarks.victims import STAGES, VICTIMS, Victim, trained_victim
from fedcore.data.datasets import Examples
from fedcore.data.encodings import encode
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors
from fedcore.nn.functional import batch_statistics
from fedcore.nn.models import build
from fedcore.plan import Choice
from fedcore.seeds import stream
from fedcore.strict import build as build_plugin
from fedcore.types import Knowledge, Reconstruction, TensorMap
from testbed.metrics import psnr_db

N_MEASURED = 2_000  # training images behind fixed statistics


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the table.

    Attributes:
        attack: registered name.
        options: of the attack.
        statistics: "none" are used, "fixed" ones of the network, or "granted" ones of the batch.
    """

    attack: str
    options: Mapping[str, Any] = field(default_factory=dict)
    statistics: Literal["none", "fixed", "granted"] = "none"

    @property
    def name(self) -> str:
        """Attack, distance and statistics."""
        return "/".join(
            (self.attack, *filter(None, [self.options.get("distance")]), self.statistics)
        )


def _gradinversion(distance: str, statistics: Literal["none", "fixed", "granted"] = "none") -> Cell:
    options: dict[str, Any] = {"labels": "granted", "distance": distance}
    if statistics == "none":
        options |= {"batch_norm": 0.0, "fixed_batch_norm": 0.0}
    return Cell(attack="gradinversion", options=options, statistics=statistics)


_PLAIN = [
    Cell(attack="inverting-gradients", options={"total_variation": 0.003}),
    Cell(attack="peeling"),
    _gradinversion("squared"),
    _gradinversion("cosine"),
]
_GRANTED = [_gradinversion("squared", "granted"), _gradinversion("cosine", "granted")]
TABLE = {
    ("none", 1): _PLAIN,
    ("batch-eval", 1): [*_PLAIN, _gradinversion("cosine", "fixed"), *_GRANTED],
    ("none", 8): _PLAIN,
    ("batch-train", 8): [*_PLAIN, *_GRANTED],
}
"""By normalisation and batch size."""

_ATTACKS = {cell.attack for cells in TABLE.values() for cell in cells}


def statistics_of(victim: Victim, weights: TensorMap, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What the normalising layers receive of these raw inputs."""
    train = encode(victim.encoding, inputs, stream(0, "statistics"))
    with torch.no_grad():
        return to_arrays(
            batch_statistics(build(victim.model), to_tensors(weights), to_tensor(train))
        )


def fixed(victim: Victim, weights: TensorMap, examples: Examples) -> Victim:
    """The same network, normalised by its statistics on these examples."""
    measured = statistics_of(victim, weights, examples.inputs[:N_MEASURED])
    options = {
        **victim.model.options,
        "normalisation": "batch-eval",
        "statistics": {name: tuple(values.tolist()) for name, values in measured.items()},
    }
    return replace(victim, model=replace(victim.model, options=options))


def attacked(
    cell: Cell, sent: Sequence[Sent], *, victim: Victim, budget: Budget
) -> tuple[list[Reconstruction], float]:
    """Answers, and CPU seconds."""
    known = [
        Knowledge(
            labels=np.sort(one.truth.labels),
            batch_statistics=statistics_of(victim, one.seen.weights, one.truth.inputs)
            if cell.statistics == "granted"
            else None,
        )
        for one in sent
    ]
    started_s = process_time()
    attack = build_plugin(ATTACKS, Choice(name=cell.attack, options=cell.options))
    answers = attack.reconstruct(
        [one.seen for one in sent],
        known,
        rng=stream(0, "attack"),
        budget=budget,
        progress=lambda *_: None,
    )
    return answers, process_time() - started_s


def score(answers: Sequence[Reconstruction], sent: Sequence[Sent]) -> str:
    """PSNR with its interval, or why there is none."""
    refused = [answer.failed for answer in answers if answer.failed]
    if refused:
        return f"refused: {refused[0]}"
    pairs = [
        (image, truth)
        for answer, one in zip(answers, sent, strict=True)
        for image, truth in zip(in_order(answer, one.truth)[0], one.truth.inputs, strict=True)
    ]
    return interval([psnr_db(truth, image) for image, truth in pairs])


def _sent(victim: Victim, weights: TensorMap, images: Examples, *, batch_size: int) -> list[Sent]:
    """The images' updates, batch by batch."""
    starts = range(0, len(images) - batch_size + 1, batch_size)
    return [
        send(victim, weights, images.take(np.arange(start, start + batch_size)), client=client)
        for client, start in enumerate(starts)
    ]


def main() -> None:
    """Attack every cell, and print how far it got."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--stage", choices=STAGES, default="trained")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--choose", action="store_true", help="on images for choosing")
    parser.add_argument("--attacks", nargs="+", default=sorted(_ATTACKS), choices=sorted(_ATTACKS))
    parser.add_argument("--options", nargs="*", default=[], type=option, metavar="NAME=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(restarts=args.restarts, iterations=args.iterations)
    parts = parts_of("mnist", args.root)
    images = (parts.choosing if args.choose else parts.victims).take(np.arange(args.images))
    victims = {"none": VICTIMS["conv-relu"], "batch-train": VICTIMS["conv-relu-norm"]}
    weights = {
        mode: trained_victim(name, root=args.root, cache=args.cache)[args.stage]
        for mode, name in (("none", "conv-relu"), ("batch-train", "conv-relu-norm"))
    }
    victims["batch-eval"] = fixed(victims["batch-train"], weights["batch-train"], parts.train)
    weights["batch-eval"] = weights["batch-train"]
    reached: dict[str, str] = {}
    for (mode, batch_size), cells in TABLE.items():
        sent = _sent(victims[mode], weights[mode], images, batch_size=batch_size)
        wanted = [cell for cell in cells if cell.attack in args.attacks]
        for cell in (replace(c, options={**c.options, **dict(args.options)}) for c in wanted):
            answers, cpu_s = attacked(cell, sent, victim=victims[mode], budget=budget)
            text = score(answers, sent)
            print(f"{mode:11} batch={batch_size} {cell.name:34} {text:14} cpu_s={cpu_s:.0f}")
            if not text.startswith("refused"):
                reached[f"{mode}/{batch_size}/{cell.name}"] = text
    mean = parts.train.inputs.mean(axis=0)
    figures = {"mean_image_db": interval([psnr_db(truth, mean) for truth in images.inputs])}
    print(
        f"RESULT stage={args.stage} images={len(images)} restarts={args.restarts} "
        f"iterations={args.iterations} "
        + " ".join(f"{name}={text}" for name, text in (figures | reached).items())
    )


if __name__ == "__main__":
    main()
