"""Counts of a network that knows nothing yet."""

from __future__ import annotations

import numpy as np

from attacker.labels.readout import Readout

__all__ = ["flat"]


def flat(readout: Readout) -> np.ndarray:
    """The mean residual is mean softmax - count / batch size; an untrained softmax is flat.

    A trained network's is not, and examples that it is sure of leave no residual: then this tends
    to equal counts for all classes.

    Raises:
        AttackError: the update does not hold the gradient in the readout's bias.
    """
    counts: np.ndarray = readout.n_examples * (1 / readout.n_classes - readout.need_bias_slope())
    return counts
