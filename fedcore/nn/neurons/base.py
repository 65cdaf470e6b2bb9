"""What a spiking neuron is: an initial state and one step. Time is the caller's loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from fedcore.plan import NeuronSpec
from fedcore.strict import parse

__all__ = ["Neuron", "NoOptions"]

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Of a neuron that has none of its own."""


class Neuron(ABC, Generic[S]):
    """A layer of neurons without parameters; its state is an argument and a result.

    Args:
        spec: its constants.

    Raises:
        ConfigError: an option is unknown, of a wrong type or refused.

    Attributes:
        options_type: frozen dataclass of its own options.
        on_bare_synapses: whether it stands directly behind convolutions and dense layers without
            bias, the readout among them, and in no other network.
    """

    options_type: ClassVar[type] = NoOptions
    on_bare_synapses: ClassVar[bool] = False

    def __init__(self, spec: NeuronSpec) -> None:
        self.spec = spec
        self.options: Any = parse(self.options_type, spec.options, where=f"neuron {spec.name!r}")

    @property
    def latency(self) -> int:
        """Steps from a spike to its arrival at the next layer."""
        return 0

    @property
    def learns_delays(self) -> bool:
        """Whether the axons of hidden layers do, see `fedcore.nn.models.axons`."""
        return False

    @abstractmethod
    def initial(self, current: Tensor) -> S:
        """The state at rest, for currents of this shape, dtype and device."""

    @abstractmethod
    def step(self, current: Tensor, state: S) -> tuple[Tensor, S]:
        """Advance by one step.

        Args:
            current: input of this step, [batch, neuron...].
            state: after the step before.

        Returns:
            Spikes in {0, 1} in the shape of `current`, and the state after this step.
        """

    def synaptic(self, weights: Tensor) -> Tensor:
        """What the synapses in front of it multiply by, made of the trained weights."""
        return weights

    def run(self, currents: Tensor) -> Tensor:
        """Spikes of a whole train from rest: `step` over time.

        A neuron that has a faster way overrides this; spikes and gradients stay those of `step`.

        Args:
            currents: [time, batch, neuron...], at least one step.

        Returns:
            Spikes, in the shape of `currents`.
        """
        state = self.initial(currents[0])
        train = []
        for current in currents:
            spikes, state = self.step(current, state)
            train.append(spikes)
        return torch.stack(train)
