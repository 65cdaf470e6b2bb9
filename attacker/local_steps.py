"""What a client does between the weights that it got and the update that it sends, unrolled.

A FedAvg update holds the gradients of several local steps, each taken where the steps before it
have led. Whoever knows the plan can take the same steps with inputs of his own and compare.

How the examples lie over the steps is the client's secret. What the plan and the declared number
of distinct examples say is whether every step had the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from torch import Tensor

from attacker.gradients import batch_size_of
from fedcore.errors import AttackError
from fedcore.nn.functional import Params, gradient
from fedcore.nn.models.network import Network
from fedcore.types import Observation

__all__ = ["LocalSteps"]

_DRAWS_PER_WAY = 8


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    """The steps behind one update, as far as they are known.

    Attributes:
        n_steps: of local SGD; 1 for a gradient.
        batch_size: examples of each step.
        same_batch: whether every step had the same examples: a shard that is one batch.
        learning_rate: of local SGD.
        proximal_mu: FedProx's pull to the global weights.
    """

    n_steps: int
    batch_size: int
    same_batch: bool
    learning_rate: float
    proximal_mu: float

    @classmethod
    def behind(cls, seen: Observation, *, n_labels: int | None = None) -> LocalSteps:
        """Of an update, as its plan and its declared number of distinct examples tell.

        Args:
            seen: the update.
            n_labels: of all steps together, where they are granted; trusted more than the client.

        Raises:
            AttackError: so many labels cannot be shared out among the steps.
        """
        training = seen.plan.training
        n_steps = training.local_steps if seen.kind == "delta" else 1
        batch_size = batch_size_of(seen)
        if n_labels is not None:
            batch_size, left_over = divmod(n_labels, n_steps)
            if left_over:
                raise AttackError(
                    f"{n_labels} granted labels cannot be shared out among the {n_steps} local "
                    f"steps of {seen.ticket}"
                )
        return cls(
            n_steps=n_steps,
            batch_size=batch_size,
            same_batch=n_steps == 1 or seen.n_examples <= batch_size,
            learning_rate=training.learning_rate,
            proximal_mu=training.proximal_mu,
        )

    @property
    def n_inputs(self) -> int:
        """Examples to look for; an example that came back in a later epoch is looked for again."""
        return self.batch_size if self.same_batch else self.n_steps * self.batch_size

    def update(
        self, model: Network, params: Params, inputs: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Minus the change of the weights per step and learning rate: the steps' mean gradient.

        The formula of `fedcore.nn.learning_rules.backprop`, differentiable in inputs and labels.

        Args:
            model: the network's structure.
            params: the global weights.
            inputs: of all steps, [time, n_inputs, feature...].
            labels: class probabilities, float [n_inputs, class].

        Returns:
            By name; for one step it is the gradient.
        """
        if self.n_steps == 1:
            return gradient(model, params, inputs, labels, create_graph=True)
        local, total = dict(params), {name: 0 * tensor for name, tensor in params.items()}
        for step in range(self.n_steps):
            own = slice(None) if self.same_batch else self._examples_of(step)
            slopes = gradient(model, local, inputs[:, own], labels[own], create_graph=True)
            for name, old in params.items():
                pulled = slopes[name] + self.proximal_mu * (local[name] - old)
                local[name] = local[name] - self.learning_rate * pulled
                total[name] = total[name] + pulled
        return {name: tensor / self.n_steps for name, tensor in total.items()}

    def arranged(
        self,
        guesses: Sequence[np.ndarray],
        *,
        n_ways: int,
        rng: np.random.Generator,
        step_order: np.ndarray | None = None,
    ) -> tuple[np.ndarray, ...]:
        """Ways in which labels could lie over the steps: one, where the steps are granted.

        Otherwise labels are a collection. Within a step the order says nothing, so ways differ in
        more than that.

        Args:
            guesses: labels of all steps, [n_steps * batch_size], or of one where all are the same.
            n_ways: per guess, at most.
            rng: draws the ways; more of them begin with the same ones.
            step_order: the step of each label.

        Returns:
            [n_inputs] each, guess by guess in turns.
        """
        if self.n_steps == 1:
            return tuple(guesses)
        if self.same_batch:
            return tuple(np.sort(labels)[:: len(labels) // self.batch_size] for labels in guesses)
        if step_order is not None:
            return tuple(labels[np.argsort(step_order, kind="stable")] for labels in guesses)
        ways = [self._ways(labels, n_ways=n_ways, rng=rng) for labels in guesses]
        n_turns = max(map(len, ways), default=0)
        return tuple(way[turn % len(way)] for turn in range(n_turns) for way in ways)

    def spread(self, found: np.ndarray, *, axis: int = 1) -> np.ndarray:
        """Inputs, labels or trains of all steps one after the other, as the client had them.

        Args:
            found: with `n_inputs` examples.
            axis: of the examples.

        Returns:
            With n_steps * batch_size examples.
        """
        n_times = self.n_steps if self.same_batch else 1
        return np.concatenate([found] * n_times, axis=axis)

    def _examples_of(self, step: int) -> slice:
        return slice(step * self.batch_size, (step + 1) * self.batch_size)

    def _ways(
        self, labels: np.ndarray, *, n_ways: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        drawn = (
            np.sort(rng.permutation(np.sort(labels)).reshape(self.n_steps, -1)).ravel()
            for _ in range(_DRAWS_PER_WAY * n_ways)
        )
        distinct = dict.fromkeys(tuple(way.tolist()) for way in drawn)
        return [np.array(way) for way in islice(distinct, n_ways)]
