"""Static quantisation to 8 bits in numpy: what an int8 graph takes in the place of weights.

The scheme is that of `fedcore.nn.export.int8`. Weights get the scale that brings the largest of
each output channel to 127; inputs the range that calibration saw, widened to hold 0. Spikes keep
their 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedcore.graphs import GraphLayer
from fedcore.types import TensorMap

__all__ = ["quantised"]

_LARGEST_WEIGHT, _LARGEST_INPUT = 127, 255


def quantised(
    weights: TensorMap, layers: Sequence[GraphLayer], calibration: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Weights, scales and zeros of the int8 graph, by name.

    Args:
        weights: of the float network.
        layers: those to quantise; what belongs to others stays.
        calibration: what each layer received, by its name; never empty.
    """
    feed = dict(weights)
    for layer in layers:
        weight = weights[f"{layer.name}.weight"]
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scale = np.where(largest > 0, largest / _LARGEST_WEIGHT, 1).astype(np.float32)
        per_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
        input_scale, input_zero = _range(calibration[layer.name])
        feed |= {
            f"{layer.name}.weight": np.rint(weight / per_channel).astype(np.int8),
            f"{layer.name}.weight_scale": scale,
            f"{layer.name}.input_scale": np.array(input_scale, np.float32),
            f"{layer.name}.input_zero": np.array(input_zero, np.uint8),
        }
    return feed


def _range(received: np.ndarray) -> tuple[float, int]:
    """Scale and zero of an input."""
    if np.isin(received, (0, 1)).all():
        return 1.0, 0
    low, high = min(0.0, float(received.min())), max(0.0, float(received.max()))
    scale = (high - low) / _LARGEST_INPUT
    return scale, round(-low / scale)
