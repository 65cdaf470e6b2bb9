"""iDLG's rule: the true class is the one whose gradient is negative."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedcore.errors import AttackError
from fedcore.nn.models import READOUT
from fedcore.types import TensorMap

if TYPE_CHECKING:
    from attacker.labels.readout import Readout

__all__ = ["label_candidates", "negative_rows"]


def label_candidates(gradient: TensorMap) -> tuple[int, ...]:
    """What the last layer says about the label of a batch of one, the most trusted rule first.

    The gradient in the logits is softmax minus one-hot, negative for the true class alone. It is
    the gradient in the readout's bias (times a positive number), and it multiplies each row of
    the gradient in the readout's weight, whose row sum therefore has its sign where features are
    not negative: sigmoid, ReLU, spikes (Zhao et al. 2020, "iDLG", arXiv 2001.02610, Eq. 4 and 6).

    Both hold for readouts of the membrane. Readout "spike_count" lies behind one more neuron:
    while its reset is detached, its surrogate changes no sign, but "triangle" and "rectangle" are
    0 far from the threshold and can silence the true class. Then all the silent ones are guesses.
    A reset that is not detached can turn signs, and both rules with them.

    Args:
        gradient: by parameter name.

    Returns:
        One label, or two where the rules differ (on a gradient that a defence has changed). A
        rule whose scores have no negative one (silent features, say) is not heard; where neither
        has one, the classes with the lowest score of the first.

    Raises:
        AttackError: the model has no readout of that name.
    """
    rules = []
    if f"{READOUT}.bias" in gradient:
        rules.append(gradient[f"{READOUT}.bias"])
    if f"{READOUT}.weight" in gradient:
        rules.append(gradient[f"{READOUT}.weight"].sum(axis=1))
    if not rules:
        raise AttackError(f"iDLG's rule needs the gradient in {READOUT!r}; the update has none")
    telling = [int(np.argmin(scores)) for scores in rules if scores.min() < 0]
    silent = np.flatnonzero(rules[0] == rules[0].min()).tolist()
    return tuple(dict.fromkeys(telling or silent))


def negative_rows(readout: Readout) -> np.ndarray:
    """The rule on a batch: the classes whose row sums are negative are there.

    Examples are shared out equally among them. Features must not be negative.
    """
    there = readout.weight_slope.sum(axis=1) < 0
    counts: np.ndarray = readout.n_examples * there / max(1, int(there.sum()))
    return counts
