"""Gradient matching on trained spiking networks, with the victim's surrogate and with a softer one.

    python -m benchmarks.relaxation conv-snn-t4 --root DATA

DATA is as for `benchmarks.victims`, whose networks are attacked; victims are the first test images,
one each. The settings were chosen on training images 58000 to 58005, which no network has seen.
Ends with a line `RESULT key=value ...` per attack; PSNR is that of the attack's own choice, with
the half-width of a 95 % t-interval over the images of this one network.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget
from benchmarks.updates import gradient_of_batch, observation
from benchmarks.victims import STAGES, VICTIMS, Victim, mnist, trained_victim
from fedcore.data.encodings import encode
from fedcore.plan import Choice, Training
from fedcore.seeds import stream
from fedcore.strict import build as build_plugin
from fedcore.types import Knowledge, Observation, Reconstruction, TensorMap

ATTACKED_WITH: dict[str, dict[str, Any]] = {
    "inverting-gradients": {"total_variation": 0.003},
    "relaxed-matching": {},
}


def observed(
    victim: Victim, weights: TensorMap, image: np.ndarray, label: int, *, number: int
) -> Observation:
    """What a client with this one example sends."""
    train = encode(victim.encoding, image[None], stream(number, "draw"))
    return observation(
        victim.model,
        victim.encoding,
        weights,
        gradient_of_batch(victim.model, weights, train, np.array([label])),
        training=Training(batch_size=1),
        client=number,
    )


def psnr_db(answer: Reconstruction, image: np.ndarray) -> float:
    """Of the attack's own choice."""
    return float(-10 * np.log10(np.mean((answer.candidates[answer.chosen, 0] - image) ** 2)))


def main() -> None:
    """Attack, and print how far each got."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim", choices=sorted(n for n, v in VICTIMS.items() if v.model.spiking))
    parser.add_argument("--stage", choices=STAGES, default="trained")
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    victim = VICTIMS[args.victim]
    weights = trained_victim(args.victim, root=args.root, cache=args.cache)[args.stage]
    images = mnist(args.root, split="test").take(np.arange(args.images))
    seen = [
        observed(victim, weights, image, int(label), number=number)
        for number, (image, label) in enumerate(zip(images.inputs, images.labels, strict=True))
    ]
    for name, options in ATTACKED_WITH.items():
        started_s = time.process_time()
        answers = build_plugin(ATTACKS, Choice(name=name, options=options)).reconstruct(
            seen,
            [Knowledge()] * len(seen),
            rng=stream(0, "attack"),
            budget=Budget(restarts=args.restarts, iterations=args.iterations),
            progress=lambda *_: None,
        )
        cpu_s = time.process_time() - started_s
        scores = [psnr_db(*pair) for pair in zip(answers, images.inputs, strict=True)]
        half_width = stats.sem(scores) * stats.t.ppf(0.975, len(scores) - 1)
        print(
            f"RESULT victim={args.victim} stage={args.stage} attack={name} images={len(seen)} "
            f"restarts={args.restarts} iterations={args.iterations} psnr_db={np.mean(scores):.2f} "
            f"half_width_db={half_width:.2f} lowest_db={min(scores):.2f} "
            f"own_loss={np.mean([a.losses[a.chosen] for a in answers]):.4f} cpu_s={cpu_s:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
