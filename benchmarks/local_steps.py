"""What several local steps hide: E steps of B digits each, matched unrolled and as one gradient.

    python -m benchmarks.local_steps idlg [--step-order]

Three clients per line, with a shard larger than E * B, and 2 restarts. The attacker is granted the
labels as a collection, and how they lie over the steps is tried, each restart its way; with
--step-order it is granted, too, and all restarts take it. Ends with one
line `RESULT key=value ...` per E and B; PSNR is the mean over clients of that of
a client's examples together, each beside the reconstructed one that is nearest.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget
from attacker.gradients import mean_gradient_of
from benchmarks.updates import observation
from fedcore.data.datasets import Examples, dataset_of
from fedcore.data.encodings import encode
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors
from fedcore.nn.learning_rules.backprop import Backprop
from fedcore.nn.learning_rules.base import Batch
from fedcore.nn.models import build, initial_weights
from fedcore.plan import Choice, EncodingSpec, ModelSpec, Training
from fedcore.seeds import stream
from fedcore.strict import build as build_plugin
from fedcore.types import Knowledge, Observation, Reconstruction

STEPS = (1, 2, 5)
BATCHES = (1, 4)
N_CLIENTS = 3
LEARNING_RATE = 0.05


@dataclass(frozen=True, kw_only=True)
class Setting:
    """An attack and the network that it is to attack."""

    model: ModelSpec
    options: dict[str, Any]


SETTINGS = {
    "idlg": Setting(model=ModelSpec(activation="sigmoid", init_gain=5.0), options={}),
    "inverting-gradients": Setting(model=ModelSpec(), options={}),
    "relaxed-matching": Setting(
        model=ModelSpec(name="convnet", spiking=True, init_gain=2.5),
        options={"total_variation": 0.01},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Client:
    """An update, and what is behind it."""

    seen: Observation
    examples: Examples


def client(model: ModelSpec, digits: Examples, *, number: int, steps: int, batch: int) -> Client:
    """A client that trains on digits of its own."""
    start = 100 + 40 * number
    examples = digits.take(np.arange(start, start + steps * batch))
    encoding = EncodingSpec(n_steps=4 if model.spiking else 1)
    training = Training(
        update="delta", batch_size=batch, local_steps=steps, learning_rate=LEARNING_RATE
    )
    weights = initial_weights(model, 0)
    train = encode(encoding, examples.inputs, stream(number, "draw"))
    batches = [
        Batch(to_tensor(train[:, own]), to_tensor(examples.labels[own]))
        for own in np.split(np.arange(steps * batch), steps)
    ]
    delta, _ = Backprop().update(build(model), to_tensors(weights), batches, training, {})
    seen = observation(
        model,
        encoding,
        weights,
        to_arrays(delta),
        training=training,
        n_examples=len(examples),
        client=number,
    )
    return Client(seen=seen, examples=examples)


def as_one_gradient(seen: Observation) -> Observation:
    """The same update, taken for the gradient of one large batch."""
    training = Training(batch_size=seen.n_examples)
    return replace(
        seen,
        kind="gradient",
        tensors=mean_gradient_of(seen),
        plan=replace(seen.plan, training=training),
    )


def psnr_db(answer: Reconstruction, inputs: np.ndarray) -> float:
    """Of the attack's own choice."""
    guess = answer.candidates[answer.chosen]
    errors = np.array([[np.mean((g - x) ** 2) for x in inputs] for g in guess])
    return float(-10 * np.log10(max(errors.min(axis=0).mean(), 1e-20)))


def main() -> None:
    """Attack, and print how far it got."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("attack", choices=sorted(SETTINGS))
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=250)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--step-order", action="store_true", help="grant each label's step")
    args = parser.parse_args()
    torch.set_num_threads(1)
    setting = SETTINGS[args.attack]
    attack = build_plugin(ATTACKS, Choice(name=args.attack, options=setting.options))
    digits = dataset_of(Choice(name="digits")).load(None, split="train")
    for steps, batch in product(args.steps, BATCHES):
        order = np.repeat(np.arange(steps), batch) if args.step_order else None
        clients = [
            client(setting.model, digits, number=number, steps=steps, batch=batch)
            for number in range(N_CLIENTS)
        ]
        said = [f"attack={args.attack} steps={steps} batch={batch} step_order={args.step_order:d}"]
        for how, change in (("unrolled", lambda seen: seen), ("as_one", as_one_gradient)):
            started_s = time.process_time()
            answers = attack.reconstruct(
                [change(c.seen) for c in clients],
                [Knowledge(labels=c.examples.labels, step_order=order) for c in clients],
                rng=stream(0, "attack"),
                budget=Budget(restarts=args.restarts, iterations=args.iterations),
                progress=lambda *_: None,
            )
            scores = [psnr_db(a, c.examples.inputs) for a, c in zip(answers, clients, strict=True)]
            own = np.mean([answer.losses[answer.chosen] for answer in answers])
            said.append(
                f"{how}_psnr_db={np.mean(scores):.2f} {how}_own_loss={own:.2g} "
                f"{how}_cpu_s={time.process_time() - started_s:.0f}"
            )
        print(f"RESULT {' '.join(said)}", flush=True)


if __name__ == "__main__":
    main()
