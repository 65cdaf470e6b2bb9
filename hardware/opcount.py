"""Operations of layers from their weights and what arrived, in numpy: for whatever ran elsewhere.

A backend without torch, or one that runs exported integer networks, hands over each layer's table
and input. A weight of 0 does nothing on hardware that stores synapses, and is not counted among
the accumulations; `dense` counts every weight and input. The rest is as in `fedcore.operations`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fedcore.errors import ConfigError
from fedcore.operations import LayerCount

__all__ = ["LayerTable", "count_layer"]


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """One layer with weights, as it runs on the device.

    Attributes:
        name: of its parameters.
        kind: fully connected, or a convolution over two axes.
        weight: integers or floats, [output, input] or [channel out, channel in, height, width].
        stride: of a convolution, in both directions.
        padding: of a convolution, on every side.
    """

    name: str
    kind: Literal["dense", "conv"]
    weight: np.ndarray
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        axes = {"dense": 2, "conv": 4}.get(self.kind)
        if axes is None:
            raise ConfigError(f"layer {self.name!r}: kind {self.kind!r} is not understood")
        if self.weight.ndim != axes:
            raise ConfigError(
                f"layer {self.name!r}: a {self.kind} weight has {axes} axes; "
                f"got shape {self.weight.shape}"
            )


def count_layer(table: LayerTable, arrived: np.ndarray, *, spikes: float = 0.0) -> LayerCount:
    """What one layer did, for one example.

    Args:
        table: the layer.
        arrived: its input, [time, batch, feature] or [time, batch, channel, height, width].
        spikes: that its neurons sent, mean over the batch.

    Returns:
        `neurons` are the layer's outputs; where pooling stands before the neurons, put theirs.

    Raises:
        ConfigError: the input does not fit the weight.
    """
    n_steps, n_examples = arrived.shape[:2]
    fan_out = np.count_nonzero(table.weight, axis=0)
    is_binary = bool(np.isin(arrived, (0, 1)).all())
    windows, n_outputs = _windows(table, arrived != 0 if is_binary else np.ones_like(arrived))
    everywhere, _ = _windows(table, np.ones_like(arrived))
    products = float(np.sum(windows * fan_out)) / n_examples
    return LayerCount(
        name=table.name,
        neurons=n_outputs,
        steps=n_steps,
        spikes=spikes,
        acs=products if is_binary else 0.0,
        macs=0.0 if is_binary else products,
        dense=float(np.sum(everywhere)) * len(table.weight) / n_examples,
    )


def _windows(table: LayerTable, present: np.ndarray) -> tuple[np.ndarray, int]:
    """How often each weight of one output meets a present input, and the layer's outputs."""
    expected = table.weight.shape[1]
    got = prod(present.shape[2:]) if table.kind == "dense" else present.shape[2]
    if got != expected:
        raise ConfigError(f"layer {table.name!r}: {got} inputs arrived, its weight has {expected}")
    if table.kind == "dense":
        return present.reshape(-1, expected).sum(axis=0, dtype=np.float64), len(table.weight)
    sides = [(0, 0)] * 3 + [(table.padding, table.padding)] * 2
    padded = np.pad(present.astype(np.float64), sides)
    step = slice(None, None, table.stride)
    seen = sliding_window_view(padded, table.weight.shape[2:], axis=(3, 4))[..., step, step, :, :]
    return seen.sum(axis=(0, 1, 3, 4)), len(table.weight) * prod(seen.shape[3:5])
