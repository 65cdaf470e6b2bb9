"""What is told of an experiment and never refused.

That is what it may well say and most likely does not mean, and what its clients cannot run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from aggregator.strategies.base import STRATEGIES
from fedcore.config import Arm, Experiment
from fedcore.strict import build
from testbed.devices import missing_int8

__all__ = ["oddities", "tell_notes", "unmade_forms"]

_WHOLE_UPDATE = 1.0  # the server's rate that takes a mean delta as it is


def oddities(experiment: Experiment) -> list[str]:
    """One line for each: the arm, what is odd, and what would settle it."""
    return [f"arm {arm.name!r}: {odd}" for arm in experiment.arms for odd in _of_arm(arm)]


def unmade_forms(experiment: Experiment) -> list[str]:
    """One line for each arm whose clients cannot run what they would deploy, with the reason."""
    missing = {arm.name: missing_int8(experiment, arm) for arm in experiment.arms}
    return [
        f"arm {name!r}: clients on backend 'onnx' train and run no int8 form: {reason.why}"
        for name, reason in missing.items()
        if reason
    ]


def tell_notes(experiment: Experiment, *, where: str) -> None:
    """Write both to standard error, after the name of the file."""
    for note in (*oddities(experiment), *unmade_forms(experiment)):
        sys.stderr.write(f"{where}: note: {note}\n")


def _of_arm(arm: Arm) -> Iterator[str]:
    training, strategy = arm.training, arm.strategy
    rate = build(STRATEGIES, strategy).learning_rate
    if "learning_rate" not in strategy.options:
        if training.update == "gradient" and rate == _WHOLE_UPDATE:
            yield (
                f"strategy {strategy.name!r} takes whole steps (learning_rate {rate}), which suits "
                "deltas, while training.update is 'gradient'; its options may say learning_rate, "
                "or take 'fedsgd'"
            )
        elif training.update == "delta" and strategy.name == "fedsgd":
            yield (
                f"strategy 'fedsgd' takes steps of {rate} along gradients, while training.update "
                "is 'delta'; its options may say learning_rate, or take 'fedavg'"
            )
    if training.proximal_mu and training.local_steps == 1:
        yield (
            "training.proximal_mu pulls from the second local step on, and there is one; raise "
            "training.local_steps with update = 'delta', or leave it out"
        )
    elif strategy.name == "fedprox" and not training.proximal_mu:
        yield "strategy 'fedprox' without training.proximal_mu is 'fedavg'; set it"
