"""GradInversion's rule: the rows with the lowest entries."""

from __future__ import annotations

import numpy as np

from attacker.labels.readout import Readout

__all__ = ["row_minima"]


def row_minima(readout: Readout) -> np.ndarray:
    """One example of each of the classes with the lowest entry in the gradient of the weight.

    Of Yin et al. 2021, "See through gradients" (arXiv 2104.07586). It needs features that are not
    negative, and takes every label to be there once; a batch of more examples than classes gets
    the remaining ones in equal parts.
    """
    n_rounds, n_left = divmod(readout.n_examples, readout.n_classes)
    counts = np.full(readout.n_classes, float(n_rounds))
    counts[np.argsort(readout.weight_slope.min(axis=1), kind="stable")[:n_left]] += 1
    return counts
