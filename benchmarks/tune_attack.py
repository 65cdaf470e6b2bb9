"""Choose an attack's setting on images that no client holds: never on victims.

    python benchmarks/tune_attack.py runs/ID .leakwatt/ID total_variation 0 1e-5 1e-4 1e-3 1e-2

Takes the global weights of a finished run at its victim rounds, computes what a client *would* have
sent for auxiliary images, attacks that with every value of one option, and scores it. The chosen
value has the highest PSNR, averaged over all arms, so that no arm gets a setting of its own. Ends
with one line `RESULT key=value ...`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from aggregator.records import StoreReader  # noqa: E402
from attacker.attacks import ATTACKS  # noqa: E402
from attacker.attacks.base import Budget  # noqa: E402
from fedcore.config import Arm, Experiment  # noqa: E402
from fedcore.data.encodings import encode  # noqa: E402
from fedcore.data.shards import read_auxiliary  # noqa: E402
from fedcore.layout import PrivateFolder, RunFolder  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient  # noqa: E402
from fedcore.nn.models import build as build_model  # noqa: E402
from fedcore.plan import Choice  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.strict import build  # noqa: E402
from fedcore.tensors import unpack_weights  # noqa: E402
from fedcore.types import Knowledge, Observation, Ticket  # noqa: E402
from testbed.metrics import METRICS  # noqa: E402


def main() -> None:
    """Print a table of PSNR by arm and value, and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("private", type=Path)
    parser.add_argument("option")
    parser.add_argument("values", type=float, nargs="+")
    parser.add_argument("--images", type=int, default=8, help="auxiliary images per round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = RunFolder(args.run)
    experiment = run.read_experiment()
    images, labels = read_auxiliary(PrivateFolder(args.private).auxiliary_file)
    scores: dict[str, dict[float, float]] = {}
    for arm in experiment.arms:
        seen = observations(experiment, arm, run, images[: args.images], labels[: args.images])
        truth = np.concatenate([images[: args.images]] * len(arm.attack.victim_rounds))
        scores[arm.name] = {}
        for value in args.values:
            found = attack(arm, seen, options={**arm.attack.options, args.option: value})
            scores[arm.name][value] = psnr(truth, found)
            print(
                f"{arm.name:>8} {args.option}={value:g}: {scores[arm.name][value]:.2f} dB",
                flush=True,
            )
    means = {v: float(np.mean([by[v] for by in scores.values()])) for v in args.values}
    best = max(means, key=lambda value: means[value])
    arms = " ".join(f"{name}_db={by[best]:.2f}" for name, by in scores.items())
    print(f"RESULT option={args.option} chosen={best:g} mean_db={means[best]:.2f} {arms}")


def observations(
    experiment: Experiment, arm: Arm, run: RunFolder, images: np.ndarray, labels: np.ndarray
) -> list[Observation]:
    """One observation per victim round and image: what a client would have sent for it."""
    run_id = experiment.run_id(arm)
    model = build_model(arm.model)
    seen = []
    with StoreReader(run.store_file) as store:
        plans = [store.plan(run_id, round=number) for number in arm.attack.victim_rounds]
    for row in plans:
        if row is None:
            raise SystemExit(f"{run.root} is not finished")
        weights = unpack_weights((run.artefacts / row.weights).read_bytes())
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            inputs = encode(arm.encoding, image[np.newaxis], stream(0, "tune", number))
            sent = gradient(model, to_tensors(weights), to_tensor(inputs), to_tensor(label[None]))
            ticket = Ticket(run_id=run_id, round=row.round, client_id=f"auxiliary-{number}")
            seen.append(
                Observation(
                    ticket=ticket,
                    plan=row.parsed(),
                    weights=weights,
                    tensors=to_arrays(sent),
                    kind="gradient",
                    n_examples=1,
                    sha256="",
                    n_bytes=0,
                )
            )
    return seen


def attack(arm: Arm, seen: list[Observation], *, options: dict[str, object]) -> np.ndarray:
    """The attacker's own choices, [observation, feature...]."""
    answers = build(ATTACKS, Choice(name=arm.attack.name, options=options)).reconstruct(
        seen,
        [Knowledge() for _ in seen],
        rng=stream(0, "tune attack"),
        budget=Budget(restarts=arm.attack.restarts, iterations=arm.attack.iterations),
        progress=lambda *_: None,
    )
    failed = [answer.failed for answer in answers if answer.failed]
    if failed:  # a mean over the others would flatter the option
        raise SystemExit(f"arm {arm.name}: {len(failed)} of {len(answers)} failed: {failed[0]}")
    return np.stack([answer.candidates[answer.chosen][0] for answer in answers])


def psnr(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean over the images, in dB."""
    metric = METRICS.get("psnr")
    values = [metric.score(t[None], f[None]) for t, f in zip(truth, found, strict=True)]
    return float(np.mean([value for value in values if isinstance(value, float)]))


if __name__ == "__main__":
    main()
