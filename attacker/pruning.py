"""Whether features were taken out of the readout's gradient, told by the layer in front of it."""

from __future__ import annotations

import numpy as np

from attacker.peeling.features import mean_features
from fedcore.nn.models import READOUT
from fedcore.plan import ModelSpec
from fedcore.types import TensorMap

__all__ = ["was_pruned"]

_AGREES, _PER_NOISE = 0.01, 10.0  # float16 misses by 3e-4, int8 by up to six times its rounding
_TINY = 1e-30


def was_pruned(gradient: TensorMap, weights: TensorMap, *, model: ModelSpec, noise: float) -> bool:
    """Whether features that are zero in the readout's gradient had a part in the loss.

    A batch of one in a conventional network: with features x and the loss's slopes r in the
    logits, the readout's gradient is r x^T, and the layer in front has the bias gradient
    a'(x) * W^T r, summed over the positions of each channel. A feature that is really zero has no
    part in it under ReLU, and a full one under tanh and sigmoid.

    Args:
        gradient: of one example, by name.
        weights: where it was taken.
        model: conventional; of others nothing is said.
        noise: in the gradient, in lengths of it; it makes and hides such misfits.
    """
    in_front = [n.rpartition(".")[0] for n in weights if not n.startswith(f"{READOUT}.")]
    bias = gradient.get(f"{in_front[-1]}.bias") if in_front else None
    slopes, columns = gradient.get(f"{READOUT}.bias"), gradient.get(f"{READOUT}.weight")
    if model.spiking or bias is None or columns is None or slopes is None or not slopes.any():
        return False
    if columns.any(0).all() or len(columns[0]) % len(bias):
        return False
    x = mean_features(columns, slopes)
    derivative = {"relu": x > 0, "sigmoid": x * (1 - x), "tanh": 1 - x**2}[model.activation]
    back = derivative * (slopes @ weights[f"{READOUT}.weight"])
    expected = back.reshape(len(bias), -1).sum(1)
    misfit = np.linalg.norm(expected - bias) / max(np.linalg.norm(bias), _TINY)
    return bool(misfit > _AGREES + _PER_NOISE * noise)
