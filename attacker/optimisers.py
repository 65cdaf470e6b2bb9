"""Minimise many independent objectives at once: row i of every tensor is one start of one victim.

An optimiser asks `evaluate` for the losses and gradients of all rows in one call. No row waits for
another's line search, and no row's numbers depend on another's. What is kept of a row is the lowest
loss that was measured, with the very candidate that had it. A search ends early when no row has got
any further for `patience` evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Evaluate", "Minimum", "OnEvaluation", "adam", "flip_spikes", "lbfgs", "signed_adam"]

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Candidates [row, variable] -> losses [row] and their gradients [row, variable]."""

OnEvaluation = Callable[[int, Tensor], None]
"""Told after each evaluation: how many there were, and the lowest losses so far [row]."""

_CURVE_POINTS = 50
_WORTH_WAITING = 1e-3  # part of a row's loss that must go for it to have got any further

_SUFFICIENT_DECREASE = 1e-4  # c1 and c2 of the weak Wolfe conditions
_CURVATURE = 0.9
_MAX_TRIALS = 25  # steps tried along one direction
_NO_LENGTH = 1e-12  # keeps Adam finite where every gradient was 0
_NO_SLOPE = 1e-32  # a gradient below it says nothing


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


class _Record:
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
        return Minimum(
            candidates=self._candidates,
            losses=self._losses,
            curves=torch.stack([*self._curve, self._losses], dim=1),
            n_evaluations=self.n_evaluations,
        )


def adam(
    evaluate: Evaluate,
    start: Tensor,
    *,
    n_evaluations: int,
    learning_rate: float,
    low: float,
    high: float,
    on_evaluation: OnEvaluation,
    patience: int | None = None,
) -> Minimum:
    """Adam within a box, its rate falling as half a cosine.

    Kingma and Ba 2015 (arXiv 1412.6980, Algorithm 1) with their betas; the rate of Loshchilov and
    Hutter 2017 (arXiv 1608.03983, Eq. 5) without restarts, down to 0.

    Args:
        evaluate: losses and gradients.
        start: [row, variable]; put into the box first.
        n_evaluations: to make.
        learning_rate: at the beginning, in units of the variables.
        low: edge of the box.
        high: edge of the box.
        on_evaluation: told after each.
        patience: evaluations without progress of any row after which the search ends; None for
            never.
    """
    record = _Record(
        start, n_evaluations=n_evaluations, patience=patience, on_evaluation=on_evaluation
    )

    def rate(k: int) -> float:
        return learning_rate * (1 + math.cos(math.pi * k / n_evaluations)) / 2

    return _adam(evaluate, start, record, rate=rate, low=low, high=high)


def signed_adam(
    evaluate: Evaluate,
    start: Tensor,
    *,
    n_evaluations: int,
    learning_rate: float,
    low: float,
    high: float,
    on_evaluation: OnEvaluation,
    patience: int | None = None,
) -> Minimum:
    """Adam on the gradient's sign, within a box.

    Kingma and Ba 2015 (arXiv 1412.6980, Algorithm 1) with their betas, on sign(gradient) as in
    Geiping et al. 2020 (arXiv 2003.14053, section 4); as in their code the rate falls tenfold at
    3/8, 5/8 and 7/8 of the way, and each step ends in the box [low, high].

    Args:
        evaluate: losses and gradients.
        start: [row, variable]; put into the box first.
        n_evaluations: to make.
        learning_rate: before the first fall, in units of the variables.
        low: edge of the box.
        high: edge of the box.
        on_evaluation: told after each.
        patience: evaluations without progress of any row after which the search ends; None for
            never.
    """
    record = _Record(
        start, n_evaluations=n_evaluations, patience=patience, on_evaluation=on_evaluation
    )

    def rate(k: int) -> float:
        n_falls = sum(k > n_evaluations * part for part in (3 / 8, 5 / 8, 7 / 8))
        return learning_rate * 0.1**n_falls

    def signs(x: Tensor) -> tuple[Tensor, Tensor]:
        losses, slopes = evaluate(x)
        return losses, slopes.sign()

    return _adam(signs, start, record, rate=rate, low=low, high=high)


def _adam(
    evaluate: Evaluate,
    start: Tensor,
    record: _Record,
    *,
    rate: Callable[[int], float],
    low: float,
    high: float,
) -> Minimum:
    """What both share; `rate` is that of the k-th step, from 1."""
    x = start.clamp(low, high)
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    while not record.is_over:
        losses, slopes = evaluate(x)
        record.see(x, losses)
        k = record.n_evaluations
        mean = 0.9 * mean + 0.1 * slopes
        square = 0.999 * square + 0.001 * slopes.square()
        step = (mean / (1 - 0.9**k)) / ((square / (1 - 0.999**k)).sqrt() + _NO_LENGTH)
        x = (x - rate(k) * step).clamp(low, high)
    return record.minimum()


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

    Directions by the two-loop recursion (Nocedal and Wright 2006, "Numerical Optimization",
    Algorithm 7.4, scaled by Eq. 7.20); steps by bisection until the weak Wolfe conditions hold
    (Lewis and Overton 2013, doi:10.1007/s10107-012-0514-2, Algorithm 2.6), which needs no
    smoothness. An evaluation serves a trial step of every row. A row that finds no step along its
    direction forgets its history; if that was empty, the row rests.

    Args:
        evaluate: losses and gradients; a loss or gradient that is not finite is a step too far.
        start: [row, variable].
        n_evaluations: to make at most; fewer when every row rests.
        memory: pairs of steps and gradient changes kept per row.
        on_evaluation: told after each.
        patience: evaluations without progress of any row after which the search ends; None for
            never.
    """
    record = _Record(
        start, n_evaluations=n_evaluations, patience=patience, on_evaluation=on_evaluation
    )
    history = _History(start, memory=memory)
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
        history.push(found, trial - x, trial_slope - slope)
        x = torch.where(found[:, None], trial, x)
        loss = torch.where(found, trial_loss, loss)
        slope = torch.where(found[:, None], trial_slope, slope)

        gave_up = line.is_exhausted & ~found
        rests |= gave_up & history.is_empty | (found & ~slope.any(1))
        history.forget(gave_up)
        line.restart(found | gave_up, history, slope)
    return record.minimum()


def flip_spikes(
    evaluate: Evaluate,
    start: Tensor,
    *,
    n_evaluations: int,
    share: float,
    blind_share: float,
    draw: Callable[[], Tensor],
    on_evaluation: OnEvaluation,
    patience: int | None = None,
) -> Minimum:
    """Descend among binary candidates, a few random flips at a time.

    The spike-compatible gradient of Liang et al. 2020 (arXiv 2001.01587): a variable is proposed
    to follow the sign of its gradient with a probability that grows linearly with the gradient's
    size (gradient-to-spike converter); where a row has no gradient at all, variables flip at
    random (restricted spike flipper). Unlike theirs, a row moves only where that lowers its loss.

    Args:
        evaluate: losses and gradients.
        start: in {0, 1}, [row, variable].
        n_evaluations: to make.
        share: probability of the variable with the largest gradient.
        blind_share: probability of each variable where there is no gradient.
        draw: uniform numbers in [0, 1), [row, variable], new ones at each call.
        on_evaluation: told after each.
        patience: evaluations without progress of any row after which the search ends; None for
            never.
    """
    record = _Record(
        start, n_evaluations=n_evaluations, patience=patience, on_evaluation=on_evaluation
    )
    x = start
    loss, slope = evaluate(x)
    record.see(x, loss)
    while not record.is_over:
        size = slope.abs()
        smallest, largest = size.amin(1, keepdim=True), size.amax(1, keepdim=True)
        chance = share * (size - smallest) / (largest - smallest).clamp(min=_NO_SLOPE)
        is_blind = largest <= _NO_SLOPE
        flips = draw() < torch.where(is_blind, blind_share, chance)
        wanted = torch.where(is_blind, 1 - x, (slope < 0).to(x.dtype))
        trial = torch.where(flips, wanted, x)
        trial_loss, trial_slope = evaluate(trial)
        record.see(trial, trial_loss)
        better = trial_loss < loss
        x = torch.where(better[:, None], trial, x)
        loss = torch.where(better, trial_loss, loss)
        slope = torch.where(better[:, None], trial_slope, slope)
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
        return cls(direction, _dot(direction, slope), _first_step(slope))

    @property
    def is_exhausted(self) -> Tensor:
        """Rows for which no further trial is worth it."""
        return self._n_trials >= _MAX_TRIALS

    def narrow(self, loss: Tensor, trial_loss: Tensor, trial_slope: Tensor) -> Tensor:
        """Judge the step just tried; return the rows for which it is good."""
        wanted = loss + _SUFFICIENT_DECREASE * self.step * self._descent
        is_far = ~(trial_loss < wanted) | ~trial_slope.isfinite().all(1)  # NaN is too far
        is_near = ~is_far & (_dot(trial_slope, self.direction) < _CURVATURE * self._descent)
        self._far = torch.where(is_far, self.step, self._far)
        self._near = torch.where(is_near, self.step, self._near)
        self._n_trials += 1
        middle = (self._near + self._far) / 2
        self.step = torch.where(self._far.isinf(), 2 * self.step, middle)
        return ~(is_far | is_near)

    def restart(self, rows: Tensor, history: _History, slope: Tensor) -> None:
        """Give these rows a new direction; steepest descent where the history's leads uphill."""
        direction = history.direction(slope)
        history.forget(rows & ~(_dot(direction, slope) < 0))
        is_first = history.is_empty
        direction = torch.where(is_first[:, None], -slope, direction)
        step = torch.where(is_first, _first_step(slope), torch.ones_like(self.step))
        self.direction = torch.where(rows[:, None], direction, self.direction)
        self._descent = torch.where(rows, _dot(direction, slope), self._descent)
        self.step = torch.where(rows, step, self.step)
        self._near = torch.where(rows, 0.0, self._near)
        self._far = torch.where(rows, math.inf, self._far)
        self._n_trials = torch.where(rows, 0.0, self._n_trials)


class _History:
    """Each row's latest steps s and gradient changes y; an empty place has rho = 0."""

    def __init__(self, like: Tensor, *, memory: int) -> None:
        n_rows = len(like)
        self._s = like.new_zeros((memory, *like.shape))
        self._y = torch.zeros_like(self._s)
        self._rho = like.new_zeros((memory, n_rows))
        self._scale = like.new_ones(n_rows)
        self._n_pairs = torch.zeros(n_rows, dtype=torch.int64, device=like.device)
        self._rows = torch.arange(n_rows, device=like.device)

    @property
    def is_empty(self) -> Tensor:
        """Rows without a pair."""
        return self._n_pairs == 0

    def push(self, rows: Tensor, s: Tensor, y: Tensor) -> None:
        """Keep these rows' pairs, the oldest making room; a pair without curvature is dropped."""
        sy, yy = _dot(s, y), _dot(y, y)
        good = (rows & (sy > 1e-10 * yy)).nonzero().squeeze(1)
        place = self._n_pairs[good] % len(self._s)
        self._s[place, good] = s[good]
        self._y[place, good] = y[good]
        self._rho[place, good] = 1 / sy[good]
        self._scale[good] = sy[good] / yy[good]
        self._n_pairs[good] += 1

    def forget(self, rows: Tensor) -> None:
        """Empty these rows."""
        self._rho[:, rows] = 0
        self._scale[rows] = 1
        self._n_pairs[rows] = 0

    def direction(self, slope: Tensor) -> Tensor:
        """Minus the approximate inverse Hessian times the gradient, [row, variable]."""
        memory = len(self._s)
        n_used = min(memory, int(self._n_pairs.max()))
        places = [(self._n_pairs - 1 - age) % memory for age in range(n_used)]  # newest first
        q = slope
        weights = []
        for place in places:
            weight = self._rho[place, self._rows] * _dot(self._s[place, self._rows], q)
            q = q - weight[:, None] * self._y[place, self._rows]
            weights.append(weight)
        r = self._scale[:, None] * q
        for place, weight in zip(reversed(places), reversed(weights), strict=True):
            back = self._rho[place, self._rows] * _dot(self._y[place, self._rows], r)
            r = r + (weight - back)[:, None] * self._s[place, self._rows]
        return -r


def _first_step(slope: Tensor) -> Tensor:
    """Moves no variable by more than 1, and all of them together by 1 at most."""
    return (1 / slope.abs().sum(1).clamp(min=1e-30)).clamp(max=1.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)
