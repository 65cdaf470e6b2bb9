"""Labels that the gradient itself gives away. Listing the estimators imports no torch.

The gradient in the readout's bias is the mean residual, softmax minus one-hot, and the one in its
weight the mean of residual times features. Both are sums over the batch, and every rule here reads
from them how often each class is in it: a batch's labels are a multiset, their order is not told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from attacker.labels.sign import label_candidates
from fedcore.registry import Registry

if TYPE_CHECKING:
    from attacker.labels.readout import Readout

__all__ = ["LABEL_ESTIMATORS", "LabelEstimator", "label_candidates"]

LabelEstimator = Callable[["Readout"], np.ndarray]
"""What the readout's gradient says -> examples of each class, float64 [class], before rounding.

It raises KnowledgeError where it needs auxiliary data that were not granted, and AttackError where
the update lacks a tensor that it reads."""

LABEL_ESTIMATORS: Registry[LabelEstimator] = Registry(
    "label estimator",
    {
        "auxiliary": "attacker.labels.simulated:best_on_simulated_clients",
        "class-means": "attacker.labels.class_means:class_means",
        "flat": "attacker.labels.flat:flat",
        "gradinversion": "attacker.labels.minima:row_minima",
        "idlg": "attacker.labels.sign:negative_rows",
        "ilrg": "attacker.labels.ilrg:ilrg",
        "llg": "attacker.labels.llg:llg",
    },
)
