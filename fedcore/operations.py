"""What a network's layers did: the plain types that hooks fill and energy tables price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["LayerCount", "training_counts"]


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """One layer's synapses and the neurons behind them, for one example (mean over the batch).

    Attributes:
        name: of the layer's parameters, without ".weight".
        neurons: number of its neurons.
        steps: of time.
        spikes: that its neurons sent; 0 where they do not spike.
        acs: accumulations in its synapses.
        macs: multiply-accumulations in its synapses.
        dense: products of its weights and inputs, those with a silent input among them.
    """

    name: str
    neurons: int
    steps: int
    spikes: float = 0.0
    acs: float = 0.0
    macs: float = 0.0
    dense: float = 0.0

    @property
    def updates(self) -> int:
        """Neuron updates: every neuron at every step, spike or none."""
        return self.neurons * self.steps


def training_counts(layers: Sequence[LayerCount]) -> tuple[LayerCount, ...]:
    """What a forward run and its backpropagation through time cost.

    A weight's gradient takes an error wherever its input was present: an accumulation for a spike,
    a multiply-accumulation otherwise, as many as in the forward run. The gradient of a layer's
    input takes one multiply-accumulation per product, silent or not; of the first layer's input
    nobody needs it. Backward through neurons, pooling and normalisation is not synaptic. Products
    with padding are none, though torch makes them.

    Args:
        layers: of the forward run, in order.
    """
    return tuple(
        replace(
            layer,
            acs=2 * layer.acs,
            macs=2 * layer.macs + (layer.dense if n else 0.0),
            dense=(3 if n else 2) * layer.dense,
        )
        for n, layer in enumerate(layers)
    )
