"""L-BFGS with a history and a line search of each row's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attacker.optimisers.history import History, dot
from attacker.optimisers.record import Evaluate, Minimum, OnEvaluation, Record

__all__ = ["lbfgs"]

_SUFFICIENT_DECREASE = 1e-4  # c1 and c2 of the weak Wolfe conditions
_CURVATURE = 0.9
_MAX_TRIALS = 25  # steps tried along one direction


def lbfgs(
    evaluate: Evaluate,
    start: Tensor,
    *,
    n_evaluations: int,
    memory: int,
    on_evaluation: OnEvaluation,
    patience: int | None = None,
) -> Minimum:
    """Limited-memory BFGS with a history and a line search of each row's own.

    Directions by the compact form of the inverse Hessian (Byrd, Nocedal and Schnabel 1994,
    doi:10.1007/BF01582063), scaled as usual (Nocedal and Wright 2006, "Numerical Optimization",
    Eq. 7.20): those of the two-loop recursion, in few operations. Steps by bisection until the
    weak Wolfe conditions hold (Lewis and Overton 2013, doi:10.1007/s10107-012-0514-2,
    Algorithm 2.6), which needs no smoothness. An evaluation serves a trial step of every row. A
    row that finds no step along its direction forgets its history; if that was empty, it rests.

    Args:
        evaluate: losses and gradients; a loss or gradient that is not finite is a step too far.
        start: [row, variable].
        n_evaluations: to make at most; fewer when every row rests.
        memory: pairs of steps and gradient changes kept per row.
        on_evaluation: told after each.
        patience: evaluations without progress of any row after which the search ends; None for
            never.
    """
    record = Record(
        start, n_evaluations=n_evaluations, patience=patience, on_evaluation=on_evaluation
    )
    history = History(start, memory=memory)
    x = start
    loss, slope = evaluate(x)
    record.see(x, loss)
    rests = ~(loss.isfinite() & slope.isfinite().all(1) & slope.any(1))
    line = _LineSearch.from_rest(-slope, slope)
    while not (record.is_over or bool(rests.all())):
        trial = x + torch.where(rests, 0.0, line.step)[:, None] * line.direction
        trial_loss, trial_slope = evaluate(trial)
        record.see(trial, trial_loss)
        found = line.narrow(loss, trial_loss, trial_slope)  # never of a row at rest
        s, y = trial - x, trial_slope - slope
        x = torch.where(found[:, None], trial, x)
        loss = torch.where(found, trial_loss, loss)
        slope = torch.where(found[:, None], trial_slope, slope)
        history.push(found, s, y, slope=slope)

        gave_up = line.is_exhausted & ~found
        rests |= gave_up & history.is_empty | (found & ~slope.any(1))
        history.forget(gave_up)
        line.restart(found | gave_up, history, slope)
    return record.minimum()


class _LineSearch:
    """Brackets a step of each row: `near` is too short, `far` is too long, `step` is tried next."""

    def __init__(self, direction: Tensor, descent: Tensor, step: Tensor) -> None:
        self.direction = direction
        self.step = step
        self._descent = descent  # slope along the direction, negative, [row]
        self._near = torch.zeros_like(step)
        self._far = torch.full_like(step, math.inf)
        self._n_trials = torch.zeros_like(step)

    @classmethod
    def from_rest(cls, direction: Tensor, slope: Tensor) -> _LineSearch:
        """Along the first direction; its length says nothing yet, so the step is short."""
        return cls(direction, dot(direction, slope), _first_step(slope))

    @property
    def is_exhausted(self) -> Tensor:
        """Rows for which no further trial is worth it."""
        return self._n_trials >= _MAX_TRIALS

    def narrow(self, loss: Tensor, trial_loss: Tensor, trial_slope: Tensor) -> Tensor:
        """Judge the step just tried; return the rows for which it is good."""
        wanted = loss + _SUFFICIENT_DECREASE * self.step * self._descent
        is_far = ~(trial_loss < wanted) | ~trial_slope.isfinite().all(1)  # NaN is too far
        is_near = ~is_far & (dot(trial_slope, self.direction) < _CURVATURE * self._descent)
        self._far = torch.where(is_far, self.step, self._far)
        self._near = torch.where(is_near, self.step, self._near)
        self._n_trials += 1
        middle = (self._near + self._far) / 2
        self.step = torch.where(self._far.isinf(), 2 * self.step, middle)
        return ~(is_far | is_near)

    def restart(self, rows: Tensor, history: History, slope: Tensor) -> None:
        """Give these rows a new direction; steepest descent where the history's leads uphill."""
        direction = history.direction(slope)
        history.forget(rows & ~(dot(direction, slope) < 0))
        is_first = history.is_empty
        direction = torch.where(is_first[:, None], -slope, direction)
        step = torch.where(is_first, _first_step(slope), torch.ones_like(self.step))
        self.direction = torch.where(rows[:, None], direction, self.direction)
        self._descent = torch.where(rows, dot(direction, slope), self._descent)
        self.step = torch.where(rows, step, self.step)
        self._near = torch.where(rows, 0.0, self._near)
        self._far = torch.where(rows, math.inf, self._far)
        self._n_trials = torch.where(rows, 0.0, self._n_trials)


def _first_step(slope: Tensor) -> Tensor:
    """Moves no variable by more than 1, and all of them together by 1 at most."""
    return (1 / slope.abs().sum(1).clamp(min=1e-30)).clamp(max=1.0)
