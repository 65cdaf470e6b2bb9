"""Attacks that search an untrained generator's weights, beside the one that searches pixels.

    python -m benchmarks.generators conv-relu --root DATA

DATA and networks are as for `benchmarks.reconstruction`, and so are scores. Every attack has one
restart and iterations of about the same CPU time (GI-NAS more). Labels of larger batches are
granted.

Ends with a line `RESULT key=value ...` per attack, intervals at 95 % over the examples of one
network; `cpu_s` is per victim.

    python -m benchmarks.generators conv-relu --root DATA --structures 10 --examples 4

asks whether the choice of GI-NAS is a good one: all of the first structures are searched, and their
losses before any step are ranked beside the PSNR that is reached (Spearman, per victim).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from attacker.attacks.base import Budget
from attacker.attacks.gi_nas import StructureSearch
from attacker.generators.base import Generated
from attacker.inputs import InputView
from benchmarks.data_sets import parts_of
from benchmarks.reconstruction import Sent, attacked, in_order, interval, scores, send
from benchmarks.victims import STAGES, VICTIMS, trained_victim
from fedcore.data.datasets import Examples
from fedcore.seeds import stream
from fedcore.types import Knowledge, Reconstruction

RUNS: dict[str, tuple[int, dict[str, float]]] = {
    "inverting-gradients": (3000, {"total_variation": 0.01}),
    "deep-prior": (200, {}),
    "gi-nas": (180, {}),
    "gion": (200, {}),
    "grnn": (200, {}),
}
"""Iterations and options of each attack; chosen on examples for choosing."""

_ITERATIONS_PER_STRUCTURE = 100


@dataclass(frozen=True, kw_only=True)
class OneStructure(StructureSearch):
    """No choice: the last of the candidates."""

    def generators(self, view: InputView, *, seed: int) -> list[Generated]:
        """Only that one."""
        return super().generators(view, seed=seed)[-1:]


def choice(sent: Sequence[Sent], *, n_structures: int) -> dict[str, str]:
    """What the structures reach, and how well their losses before any step tell it."""
    every = [
        OneStructure(candidates=n).reconstruct(
            [one.seen for one in sent],
            [Knowledge()] * len(sent),
            rng=stream(0, "attack"),
            budget=Budget(restarts=1, iterations=_ITERATIONS_PER_STRUCTURE),
            progress=lambda *_: None,
        )
        for n in range(1, n_structures + 1)
    ]
    truth = [one.truth for one in sent]
    reached = np.array([[_psnr_db(*pair) for pair in zip(a, truth, strict=True)] for a in every])
    losses = np.array(
        [[a.certificate["loss before any step"] for a in answers] for answers in every]
    )
    chosen = np.take_along_axis(reached, losses.argmin(axis=0)[None], axis=0)[0]
    ranks = [stats.spearmanr(*pair).statistic for pair in zip(losses.T, reached.T, strict=True)]
    return {
        "structures": str(n_structures),
        "mean_db": interval(list(reached.mean(axis=0))),
        "chosen_db": interval(list(chosen)),
        "best_db": interval(list(reached.max(axis=0))),
        "rank_correlation": interval(ranks),
    }


def _psnr_db(answer: Reconstruction, truth: Examples) -> float:
    """Of the attack's own choice."""
    return float(-10 * np.log10(np.square(in_order(answer, truth)[0] - truth.inputs).mean()))


def _said(figures: dict[str, str]) -> str:
    return " ".join(f"{name}={text}" for name, text in figures.items())


def main() -> None:
    """Attack, and print how far each got."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim", choices=sorted(VICTIMS))
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path(".leakwatt/victims"))
    parser.add_argument("--stage", choices=STAGES, default="trained")
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--attacks", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--structures", type=int, help="that GI-NAS could choose, all searched")
    parser.add_argument("--choose", action="store_true", help="on examples for choosing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    victim, parts = VICTIMS[args.victim], parts_of(VICTIMS[args.victim].data, args.root)
    weights = trained_victim(args.victim, root=args.root, cache=args.cache)[args.stage]
    source = parts.choosing if args.choose else parts.victims
    sent = [
        send(victim, weights, source.take(np.arange(start, start + args.batch)), client=start)
        for start in range(0, args.examples - args.batch + 1, args.batch)
    ]
    if args.structures:
        figures = choice(sent, n_structures=args.structures)
        print(f"RESULT victim={args.victim} stage={args.stage} {_said(figures)}")
        return
    known = [Knowledge(labels=one.truth.labels if args.batch > 1 else None) for one in sent]
    for attack in args.attacks:
        iterations, options = RUNS[attack]
        answers, cpu_s = attacked(
            attack,
            sent,
            known=known,
            options=options,
            budget=Budget(restarts=1, iterations=iterations),
        )
        own = np.mean([answer.losses[answer.chosen] for answer in answers])
        figures = scores(answers, sent, parts.train) | {
            "own_loss": f"{own:.4f}",
            "iterations": str(iterations),
            "cpu_s": f"{cpu_s / len(sent):.1f}",
        }
        print(
            f"RESULT victim={args.victim} stage={args.stage} batch={args.batch} attack={attack} "
            + _said(figures),
            flush=True,
        )


if __name__ == "__main__":
    main()
