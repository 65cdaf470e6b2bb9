"""iLRG: the mean features of each class, read from the gradient itself."""

from __future__ import annotations

import numpy as np

from attacker.labels.readout import Readout

__all__ = ["ilrg"]


def ilrg(readout: Readout) -> np.ndarray:
    """Instance-wise batch label restoration from gradients (iLRG, ICLR 2023).

    The ratio of a weight row's gradient and its bias's is taken for the features of that class;
    the layer says which softmax p_i they have. Then counts k solve, in least squares,
    sum_i k_i = B and sum_i k_i p_i - k = B times the bias's gradient.

    Raises:
        AttackError: the update does not hold the gradient in the readout's bias.
    """
    n_classes, slope = readout.n_classes, readout.need_bias_slope()
    scale = np.where(slope == 0, np.inf, slope)  # a row that is silent has features 0
    logits = (readout.weight_slope / scale[:, None]) @ readout.weight.T + readout.bias
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    system = np.vstack([np.ones(n_classes), softmax.T - np.eye(n_classes)])
    right = readout.n_examples * np.concatenate([[1.0], slope])
    counts: np.ndarray = np.linalg.lstsq(system, right, rcond=None)[0]
    return counts
