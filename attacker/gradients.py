"""The gradient behind an update, and the number of examples behind it."""

from __future__ import annotations

import numpy as np

from fedcore.errors import AttackError
from fedcore.types import Observation

__all__ = ["batch_size_of", "gradient_of", "norm_of"]


def gradient_of(seen: Observation) -> dict[str, np.ndarray]:
    """The gradient of the mean loss that the update tells of, float32 by name.

    One local step of SGD moves the weights by -learning rate * gradient, so a "delta" is divided
    by that. FedProx changes nothing: its pull is zero where the step begins.

    Raises:
        AttackError: several local steps went into the update.
    """
    training = seen.plan.training
    if seen.kind == "gradient":
        return dict(seen.tensors)
    if training.local_steps != 1:
        raise AttackError(
            f"the update holds {training.local_steps} local steps; this attack inverts one "
            "gradient, and several steps need an attack on FedAvg, which is not here yet"
        )
    rate = np.float32(training.learning_rate)
    return {name: -delta / rate for name, delta in seen.tensors.items()}


def norm_of(gradient: dict[str, np.ndarray]) -> float:
    """Euclidean length over all layers."""
    squares = [float(np.square(g, dtype=np.float64).sum()) for g in gradient.values()]
    return float(np.sqrt(sum(squares)))


def batch_size_of(seen: Observation) -> int:
    """Examples behind the update, as it declares; more than the plan's batch is not believed."""
    return min(seen.n_examples, seen.plan.training.batch_size)
