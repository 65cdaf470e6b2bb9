"""What a network's layers did: the plain types that hooks fill and energy tables price."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LayerCount"]


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
    """

    name: str
    neurons: int
    steps: int
    spikes: float = 0.0
    acs: float = 0.0
    macs: float = 0.0

    @property
    def updates(self) -> int:
        """Neuron updates: every neuron at every step, spike or none."""
        return self.neurons * self.steps
