"""LLG: labels one after another, each takes its impact off the gradient."""

from __future__ import annotations

import numpy as np

from attacker.labels.readout import Readout

__all__ = ["llg"]


def llg(readout: Readout) -> np.ndarray:
    """Label leakage from gradients by Wainakh et al. 2021 (arXiv 2105.09369), no extra knowledge.

    Row sums of the weight's gradient: a class whose sum is negative is there. One example's impact
    is (1 + 1 / n_classes) / n_examples times the sum of the negative ones, the same for all; it is
    taken off for every label found, and the lowest sum is the next label.

    Features must not be negative.
    """
    sums = readout.weight_slope.sum(axis=1)
    impact = (1 + 1 / readout.n_classes) / readout.n_examples * sums[sums < 0].sum()
    counts = np.zeros(readout.n_classes)
    there = [i for i in np.argsort(sums, kind="stable") if sums[i] < 0]
    for step in range(readout.n_examples):
        label = there[step] if step < len(there) else int(np.argmin(sums - impact * counts))
        counts[label] += 1
    return counts
