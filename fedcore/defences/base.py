"""The four places where a defence can act, and how several of them make one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedcore.defences.noise import NoiseSource
from fedcore.plan import Choice, ModelSpec
from fedcore.registry import Registry
from fedcore.strict import build
from fedcore.types import TensorMap

__all__ = ["DEFENCES", "Chain", "Defence", "chain"]

_HOOKS = ("model", "example_gradients", "update", "aggregate")


@dataclass(frozen=True, kw_only=True)
class Defence:
    """A defence overrides at least one of four hooks; the others change nothing.

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

    def update(self, tensors: TensorMap, rng: NoiseSource) -> TensorMap:
        """Through every step; all draw from the same stream."""
        for step in self.steps:
            tensors = step.update(tensors, rng)
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
        "sign": "fedcore.defences.compress:Sign",
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
