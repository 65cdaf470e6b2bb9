"""Labels that the gradient itself gives away."""

from __future__ import annotations

import numpy as np

from fedcore.errors import AttackError
from fedcore.nn.models import READOUT
from fedcore.types import TensorMap

__all__ = ["label_candidates"]


def label_candidates(gradient: TensorMap) -> tuple[int, ...]:
    """What the last layer says about the label of a batch of one, the most trusted rule first.

    The gradient in the logits is softmax minus one-hot, negative for the true class alone. It is
    the gradient in the readout's bias (times a positive number), and it multiplies each row of
    the gradient in the readout's weight, whose row sum therefore has its sign where features are
    not negative: sigmoid, ReLU, spikes (Zhao et al. 2020, "iDLG", arXiv 2001.02610, Eq. 4 and 6).
    Both hold for spiking networks with any readout of ours, since surrogates are not negative.

    Args:
        gradient: by parameter name.

    Returns:
        One label, or two where the rules differ (on a gradient that a defence has changed). A
        rule whose scores have no negative one (silent features, say) is not heard.

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
    telling = [scores for scores in rules if scores.min() < 0] or rules[:1]
    return tuple(dict.fromkeys(int(np.argmin(scores)) for scores in telling))
