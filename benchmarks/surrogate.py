"""What knowing the surrogate is worth: the same updates, with it in the plan and withheld.

    python -m benchmarks.surrogate

Victims are clients with one digit each, and an untrained spiking network with another surrogate
than the default, which an attacker assumes from whom it is withheld. Settings are those of
`experiments/spike-aware.toml`. Ends with one line `RESULT key=value ...` per surrogate, attack and
knowledge, and one for the mean of other digits; PSNR is the mean with its 95 % interval over
victims.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget
from attacker.observations import restricted
from benchmarks.updates import gradient_of_batch, observation
from fedcore.data.datasets import Examples, dataset_of
from fedcore.data.encodings import encode
from fedcore.nn.models import initial_weights
from fedcore.plan import Choice, EncodingSpec, ModelSpec, NeuronSpec, Training
from fedcore.seeds import stream
from fedcore.strict import build
from fedcore.types import Knowledge, Observation, ThreatModel
from testbed.metrics import psnr_db
from testbed.report.words import estimate_text
from testbed.statistics import mean_with_interval

ENCODING = EncodingSpec(n_steps=8)
NEURONS = (
    NeuronSpec(surrogate="arctan", sharpness=5.0),
    NeuronSpec(surrogate="triangle", sharpness=2.0),
)
ATTACKED_BY: dict[str, dict[str, Any]] = {
    "inverting-gradients": {},
    "relaxed-matching": {"total_variation": 0.03},
    "peeling": {"total_variation": 0.1},
}
FIRST = 300  # of the digits


def main() -> None:
    """Attack, and print how far it got."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    digits = dataset_of(Choice(name="digits")).load(None, split="train")
    victims = digits.take(np.arange(FIRST, FIRST + args.victims))
    mean_image = digits.inputs[:FIRST].mean(axis=0)
    print(f"RESULT mean_image psnr_db={_psnr_db(victims, [mean_image] * len(victims))}")
    budget = Budget(restarts=2, iterations=args.iterations)
    for neuron, (name, options) in product(NEURONS, ATTACKED_BY.items()):
        seen = _updates(victims, neuron)
        attack = build(ATTACKS, Choice(name=name, options=options))
        for is_known in (True, False):
            started_s = time.process_time()
            answers = attack.reconstruct(
                [restricted(o, ThreatModel(surrogate=is_known)) for o in seen],
                [Knowledge()] * len(seen),
                rng=stream(0, "attack"),
                budget=budget,
                progress=lambda *_: None,
            )
            print(
                f"RESULT surrogate={neuron.surrogate} attack={name} known={is_known:d} "
                f"psnr_db={_psnr_db(victims, [a.candidates[a.chosen][0] for a in answers])} "
                f"cpu_s={time.process_time() - started_s:.0f}",
                flush=True,
            )


def _updates(victims: Examples, neuron: NeuronSpec) -> list[Observation]:
    """One gradient per example, at the same weights."""
    model = ModelSpec(name="convnet", spiking=True, init_gain=2.5, neuron=neuron)
    weights = initial_weights(model, 0)
    seen = []
    for i in range(len(victims)):
        one = victims.take(np.array([i]))
        train = encode(ENCODING, one.inputs, stream(0, "draw", i))
        sent = gradient_of_batch(model, weights, train, one.labels)
        training = Training(batch_size=1)
        seen.append(observation(model, ENCODING, weights, sent, training=training, round=i))
    return seen


def _psnr_db(victims: Examples, guesses: Sequence[np.ndarray]) -> str:
    """Mean and interval."""
    values = [
        psnr_db(truth[None], guess[None])
        for truth, guess in zip(victims.inputs, guesses, strict=True)
    ]
    found = mean_with_interval([value for value in values if isinstance(value, float)])
    return estimate_text(found, digits=1).replace(" ", "")


if __name__ == "__main__":
    main()
