"""The gradient behind an update, and the number of examples behind it."""

from __future__ import annotations

import numpy as np

from fedcore.errors import AttackError
from fedcore.types import Observation

__all__ = ["batch_size_of", "gradient_of", "mean_gradient_of", "norm_of"]


def gradient_of(seen: Observation) -> dict[str, np.ndarray]:
    """The one gradient of the mean loss that the update tells of, float32 by name.

    One local step of SGD moves the weights by -learning rate * gradient, so a "delta" is divided
    by that. FedProx changes nothing: its pull is zero where the step begins.

    Raises:
        AttackError: several local steps went into the update.
    """
    n_steps = seen.plan.training.local_steps
    if seen.kind == "delta" and n_steps != 1:
        raise AttackError(
            f"the update holds {n_steps} local steps; this attack inverts one gradient "
            "(gradient matching, e.g. 'inverting-gradients', takes several steps, too)"
        )
    return mean_gradient_of(seen)


def mean_gradient_of(seen: Observation) -> dict[str, np.ndarray]:
    """The mean gradient of the update's local steps, float32 by name; FedProx's pull is in it.

    Each step's gradient was taken where the steps before it had led: see `attacker.local_steps`.
    """
    if seen.kind == "gradient":
        return dict(seen.tensors)
    training = seen.plan.training
    whole_step = np.float32(training.learning_rate * training.local_steps)
    return {name: -delta / whole_step for name, delta in seen.tensors.items()}


def norm_of(gradient: dict[str, np.ndarray]) -> float:
    """Euclidean length over all layers."""
    squares = [float(np.square(g, dtype=np.float64).sum()) for g in gradient.values()]
    return float(np.sqrt(sum(squares)))


def batch_size_of(seen: Observation) -> int:
    """Examples of one local step, as declared; more than the plan's batch is not believed."""
    return min(seen.n_examples, seen.plan.training.batch_size)
