"""What every optimiser keeps of its search, and what it asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Evaluate", "Minimum", "OnEvaluation", "Record"]

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Candidates [row, variable] -> losses [row] and their gradients [row, variable]."""

OnEvaluation = Callable[[int, Tensor], None]
"""Told after each evaluation: how many there were, and the lowest losses so far [row]."""

_CURVE_POINTS = 50
_WORTH_WAITING = 1e-3  # part of a row's loss that must go for it to have got any further


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The best of every row.

    Attributes:
        candidates: [row, variable].
        losses: measured at exactly these candidates, [row]; infinite where none was finite.
        curves: the lowest loss so far, [row, point], at about 50 evaluations.
        n_evaluations: of all rows.
    """

    candidates: Tensor
    losses: Tensor
    curves: Tensor
    n_evaluations: int


class Record:
    """Keeps the best candidate of every row and the curve towards it."""

    def __init__(
        self,
        start: Tensor,
        *,
        n_evaluations: int,
        patience: int | None,
        on_evaluation: OnEvaluation,
    ) -> None:
        self._candidates = start
        self._losses = start.new_full((len(start),), math.inf)
        self._marks = start.new_full((len(start),), torch.finfo(start.dtype).max)
        self._n_marked = 0
        self._limit = n_evaluations
        self._patience = n_evaluations if patience is None else patience
        self._curve: list[Tensor] = []
        self._point_every = math.ceil(n_evaluations / _CURVE_POINTS)
        self._on_evaluation = on_evaluation
        self.n_evaluations = 0

    def see(self, candidates: Tensor, losses: Tensor) -> None:
        """Note the losses of these candidates; NaN is never the best."""
        better = losses < self._losses
        self._losses = torch.where(better, losses, self._losses)
        self._candidates = torch.where(better[:, None], candidates, self._candidates)
        if self.n_evaluations % self._point_every == 0:
            self._curve.append(self._losses)
        self.n_evaluations += 1
        further = self._losses < self._marks - _WORTH_WAITING * self._marks.abs()
        self._marks = torch.where(further, self._losses, self._marks)
        if bool(further.any()):
            self._n_marked = self.n_evaluations
        self._on_evaluation(self.n_evaluations, self._losses)

    @property
    def is_over(self) -> bool:
        """Whether everything is spent, or no row got any further for too long."""
        n = self.n_evaluations
        return n >= self._limit or n - self._n_marked >= self._patience

    def minimum(self) -> Minimum:
        """What was kept."""
        return Minimum(
            candidates=self._candidates,
            losses=self._losses,
            curves=torch.stack([*self._curve, self._losses], dim=1),
            n_evaluations=self.n_evaluations,
        )
