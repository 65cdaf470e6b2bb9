"""The six places where a defence can act, and how several of them make one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedcore.cohort import Cohort
from fedcore.defences.noise import NoiseSource
from fedcore.plan import Choice, ModelSpec
from fedcore.registry import Registry
from fedcore.strict import build
from fedcore.types import TensorMap

__all__ = ["DEFENCES", "Chain", "Defence", "OwnBatch", "chain"]

_HOOKS = ("model", "example_gradients", "informed_update", "update", "hidden", "aggregate")


class OwnBatch(Protocol):
    """What a client, and nobody else, can say of the examples behind its update."""

    def sensitivity(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """What a fully connected layer receives, and how strongly it answers to the input.

        Args:
            layer: its name.

        Returns:
            Its inputs r, averaged over time, and the Euclidean length of d r / d encoded input,
            both float32 [example, feature].

        Raises:
            ConfigError: the model has no such layer.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Defence:
    """A defence overrides at least one of six hooks; the others change nothing.

    The fields of a subclass are its options. Hooks never alter their arguments, and keep the
    names, order, shapes and dtypes of the tensors.
    """

    @property
    def hooks(self) -> frozenset[str]:
        """Names of the hooks that this defence overrides, so that nobody calls the others."""
        mine = type(self)
        return frozenset(h for h in _HOOKS if getattr(mine, h) is not getattr(Defence, h))

    def model(self, spec: ModelSpec) -> ModelSpec:
        """The network that all train instead; asked once, where weights and plans are made."""
        return spec

    def example_gradients(self, gradients: TensorMap) -> TensorMap:
        """Gradients per example, [example, shape of the weight...], before their mean is taken."""
        return gradients

    def informed_update(self, tensors: TensorMap, batch: OwnBatch) -> TensorMap:
        """The update before `update`, by a defence that looks at the examples behind it.

        Args:
            tensors: float32 by parameter name.
            batch: the examples of all local steps, under the global weights.

        Raises:
            ConfigError: the model lacks what the defence is to act on.
        """
        del batch
        return tensors

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """The update before the codec.

        Args:
            tensors: float32 by parameter name.
            rng: the client's secret stream of the round, or the system's generator.

        Raises:
            UpdateError: the update cannot be defended (NaN, infinity), and must not be sent.
        """
        del rng
        return tensors

    def hidden(self, tensors: TensorMap, cohort: Cohort) -> TensorMap:
        """The update after `update`, by a defence that all clients of a round carry out together.

        Args:
            tensors: float32 by parameter name.
            cohort: what this client shares with the others; testbed deals it where this hook is
                overridden.
        """
        del cohort
        return tensors

    def aggregate(self, updates: Iterator[TensorMap]) -> Iterator[TensorMap]:
        """The accepted updates on the aggregator, in client-id order, before they are folded.

        Args:
            updates: one after the other, as changes of the weights, so that a round of many
                clients never has to fit into memory. As many come out, in the same order. They
                may be asked for more than once in a round.
        """
        return updates


@dataclass(frozen=True, kw_only=True)
class Chain(Defence):
    """Defences one after the other, from left to right. An empty chain changes nothing."""

    steps: tuple[Defence, ...] = ()

    @property
    def hooks(self) -> frozenset[str]:
        """Every hook that some step overrides."""
        return frozenset().union(*(step.hooks for step in self.steps))

    def model(self, spec: ModelSpec) -> ModelSpec:
        """Through every step."""
        for step in self.steps:
            spec = step.model(spec)
        return spec

    def example_gradients(self, gradients: TensorMap) -> TensorMap:
        """Through every step."""
        for step in self.steps:
            gradients = step.example_gradients(gradients)
        return gradients

    def informed_update(self, tensors: TensorMap, batch: OwnBatch) -> TensorMap:
        """Through every step."""
        for step in self.steps:
            tensors = step.informed_update(tensors, batch)
        return tensors

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Through every step; all draw from the same stream."""
        for step in self.steps:
            tensors = step.update(tensors, rng)
        return tensors

    def hidden(self, tensors: TensorMap, cohort: Cohort) -> TensorMap:
        """Through every step."""
        for step in self.steps:
            tensors = step.hidden(tensors, cohort)
        return tensors

    def aggregate(self, updates: Iterator[TensorMap]) -> Iterator[TensorMap]:
        """Through every step."""
        for step in self.steps:
            updates = step.aggregate(updates)
        return updates


DEFENCES: Registry[type[Defence]] = Registry(
    "defence",
    {
        "clip": "fedcore.defences.clip:Clip",
        "dp-sgd": "fedcore.defences.dp_sgd:DpSgd",
        "gaussian": "fedcore.defences.gaussian:Gaussian",
        "laplace": "fedcore.defences.laplace:Laplace",
        "precode": "fedcore.defences.precode:Precode",
        "qsgd": "fedcore.defences.compress:Qsgd",
        "secure-aggregation": "fedcore.defences.secure_aggregation:SecureAggregation",
        "sign": "fedcore.defences.compress:Sign",
        "soteria": "fedcore.defences.soteria:Soteria",
        "topk": "fedcore.defences.compress:TopK",
        "withhold": "fedcore.defences.compress:Withhold",
    },
)


def chain(choices: Sequence[Choice]) -> Chain:
    """The defences that a plan names, in their order.

    Raises:
        ConfigError: unknown name or option.
    """
    return Chain(steps=tuple(build(DEFENCES, choice) for choice in choices))
