"""Victims of one shape as one optimisation: a row per victim and restart.

A row holds the variables of one search (see `attacker.searched`). Victims may come from different
rounds and clients: each row has the weights of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attacker.inputs import InputView
from attacker.recorded import Recorded
from attacker.searched import Plain, Searched
from attacker.starts import StartKind, draw_start
from fedcore.nn.arrays import to_array, to_tensor
from fedcore.nn.functional import Params, gradient
from fedcore.nn.models.network import Network
from fedcore.tensors import have_equal_values
from fedcore.types import TensorMap, Ticket

__all__ = ["Batch", "Objective", "Prior", "Update", "Victim"]

Objective = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Tensor], Tensor]
"""(candidate's gradient, observed gradient, candidate) -> the loss of one row, a scalar."""

Update = Callable[[Network, Params, Tensor, Tensor], dict[str, Tensor]]
"""(network, weights, network's input, class probabilities) -> what a client would have sent."""

Prior = Callable[[Network, Params, Tensor, Mapping[str, Tensor]], Tensor]
"""(network, weights, network's input, what is known of it) -> what is added to a row's loss."""

_ONE_GRADIENT: Update = partial(gradient, create_graph=True)
_ROWS_AT_ONCE = 128  # bounds the memory of large models; small ones gain nothing from more
_VARIABLES_AT_ONCE = 1 << 21  # the same for searches of many variables


@dataclass(frozen=True, kw_only=True)
class Victim:
    """What a batch needs of one victim.

    Attributes:
        ticket: names the starts.
        weights: the global model, by name.
        gradient: observed, by name, times `scale`.
        scale: brings the observed gradient to length 1; the candidate's is multiplied by it, too.
        labels: guesses [example] that restarts take in turn; none to search for them.
        known: of the network's input, by name; for a `Prior`.
    """

    ticket: Ticket
    weights: TensorMap
    gradient: TensorMap
    scale: float
    labels: tuple[np.ndarray, ...]
    known: TensorMap = field(default_factory=dict)


class Batch:
    """Losses and gradients of many searches in one call.

    Args:
        victims: with as many examples each as `view` has; all or none with labels.
        network: of all of them.
        view: what a candidate is.
        n_examples: per victim.
        restarts: rows per victim.
        objective: of one row.
        update: what takes the candidate to its gradient; differentiable.
        searched: what the variables are; the candidate itself, unless said otherwise.
        prior: of the network's input, given what is known of it.
        compiles: see `attacker.recorded`.
    """

    def __init__(
        self,
        victims: Sequence[Victim],
        *,
        network: Network,
        view: InputView,
        n_examples: int,
        restarts: int,
        objective: Objective,
        update: Update = _ONE_GRADIENT,
        searched: Searched | None = None,
        prior: Prior | None = None,
        compiles: bool = False,
    ) -> None:
        self._tickets = [victim.ticket for victim in victims]
        self._model = network
        self.view = view
        self._restarts = restarts
        self._objective = objective
        self._update = update
        self._prior = prior
        self._labels = self._given_labels(victims)
        logits = (n_examples, network.spec.n_classes) if self._labels is None else ()
        self._searched = searched or Plain(view=view, label_shape=logits)
        names = [name for name, _ in network.named_parameters()]
        weights = self._stacked([victim.weights for victim in victims], names)
        targets = self._stacked([victim.gradient for victim in victims], names)
        known = self._stacked([victim.known for victim in victims], victims[0].known)
        scales = torch.tensor([victim.scale for victim in victims]).repeat_interleave(restarts)
        is_shared = all(have_equal_values(victims[0].weights, v.weights) for v in victims)
        if is_shared:  # held once: what they are folded with stays one ordinary convolution
            weights = {name: of_rows[0].clone() for name, of_rows in weights.items()}
        self._of_rows = (weights, targets, scales, known, self._labels)
        axes = (0, None if is_shared else 0, 0, 0, 0, None if self._labels is None else 0)
        at_once = max(1, min(_ROWS_AT_ONCE, _VARIABLES_AT_ONCE // self._searched.n_variables))
        self._losses = torch.func.vmap(self._loss, in_dims=axes, chunk_size=at_once)
        self._slopes_and_losses = torch.func.vmap(
            torch.func.grad_and_value(self._loss), in_dims=axes, chunk_size=at_once
        )
        self._evaluate = Recorded(self._evaluated, compiles=compiles)

    def starts(self, kind: StartKind, *, seed: int) -> Tensor:
        """Where the searches begin, [row, variable]."""
        n = self._searched.n_variables
        draws = [
            to_tensor(draw_start(kind, n, seed=seed, ticket=ticket, restart=restart))
            for ticket in self._tickets
            for restart in range(self._restarts)
        ]
        return self._searched.begin(torch.stack(draws))

    def evaluate(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [row] and their gradients [row, variable] at these candidates."""
        evaluated: tuple[Tensor, Tensor] = self._evaluate(rows)
        return evaluated

    def losses(self, rows: Tensor) -> Tensor:
        """Losses alone, [row]."""
        measured: Tensor = self._losses(rows, *self._of_rows)
        return measured.detach()

    def within_range(self, rows: Tensor) -> Tensor:
        """The nearest candidates that an input could be."""
        return self._searched.within_range(rows)

    def raw_inputs(self, rows: Tensor) -> np.ndarray:
        """In [0, 1], [victim, restart, example, feature...]."""
        return self.by_victim(
            torch.stack([self.view.to_raw(self._searched.candidate(row)) for row in rows])
        )

    def trains(self, rows: Tensor) -> np.ndarray | None:
        """The network's input, [victim, restart, time, example, feature...], if it is searched."""
        if not self.view.is_train:
            return None
        received = [self.view.to_network(self._searched.candidate(row)) for row in rows]
        return self.by_victim(torch.stack(received))

    def labels(self, rows: Tensor) -> np.ndarray:
        """The given or the most likely labels, int64 [victim, restart, example]."""
        given = [None] * len(rows) if self._labels is None else self._labels
        soft = [self._soft_labels(row, known) for row, known in zip(rows, given, strict=True)]
        return self.by_victim(torch.stack(soft).argmax(-1))

    def group_means(self, rows: Tensor) -> Tensor:
        """Of each row the mean over its victim's rows with the same given labels, [row, variable].

        Rows that search for their labels count as having the same.
        """
        per_victim = (len(self._tickets), self._restarts, -1)
        labels = rows.new_zeros(len(rows), 1) if self._labels is None else self._labels
        labels = labels.reshape(per_victim)
        alike = (labels[:, :, None] == labels[:, None]).all(-1).to(rows)
        means: Tensor = alike / alike.sum(-1, keepdim=True) @ rows.reshape(per_victim)
        return means.flatten(0, 1)

    def by_victim(self, values: Tensor) -> np.ndarray:
        """[row, ...] -> [victim, restart, ...]."""
        return to_array(values).reshape(len(self._tickets), self._restarts, *values.shape[1:])

    def _evaluated(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        slopes, losses = self._slopes_and_losses(rows, *self._of_rows)
        return losses.detach(), slopes.detach()

    def _loss(
        self,
        row: Tensor,
        weights: dict[str, Tensor],
        target: dict[str, Tensor],
        scale: Tensor,
        known: dict[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        """Of one row; vmapped over all."""
        candidate = self._searched.candidate(row)
        inputs = self.view.to_network(candidate)
        soft = self._soft_labels(row, labels)
        found = self._update(self._model, weights, inputs, soft)
        scaled = {name: scale * slope for name, slope in found.items()}
        loss = self._objective(scaled, target, candidate)
        if self._prior is None:
            return loss
        return loss + self._prior(self._model, weights, inputs, known)

    def _soft_labels(self, row: Tensor, given: Tensor | None) -> Tensor:
        """Class probabilities [example, class]."""
        if given is not None:
            return given
        return self._searched.logits(row).softmax(-1)

    def _given_labels(self, victims: Sequence[Victim]) -> Tensor | None:
        """One-hot labels [row, example, class], or None where they are searched for."""
        if not all(victim.labels for victim in victims):
            return None
        guesses = [
            victim.labels[restart % len(victim.labels)]
            for victim in victims
            for restart in range(self._restarts)
        ]
        one_hot = F.one_hot(to_tensor(np.stack(guesses)), self._model.spec.n_classes)
        return one_hot.to(torch.float32)

    def _stacked(self, maps: Sequence[TensorMap], names: Iterable[str]) -> dict[str, Tensor]:
        """By name, [row, ...]."""
        return {
            name: to_tensor(np.stack([tensors[name] for tensors in maps])).repeat_interleave(
                self._restarts, dim=0
            )
            for name in names
        }
