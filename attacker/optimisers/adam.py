"""Adam within a box: on the gradient, and on its sign."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attacker.optimisers.record import Evaluate, Minimum, OnEvaluation, Record

__all__ = ["adam", "signed_adam"]

_NO_LENGTH = 1e-12  # keeps Adam finite where every gradient was 0


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
    noise: Callable[[], Tensor] | None = None,
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
        noise: added to each step and, like it, times the rate, [row, variable]; new numbers at
            each call.
    """
    record = Record(
        start, n_evaluations=n_evaluations, patience=patience, on_evaluation=on_evaluation
    )

    def rate(k: int) -> float:
        return learning_rate * (1 + math.cos(math.pi * k / n_evaluations)) / 2

    return _adam(evaluate, start, record, rate=rate, low=low, high=high, noise=noise)


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
    record = Record(
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
    record: Record,
    *,
    rate: Callable[[int], float],
    low: float,
    high: float,
    noise: Callable[[], Tensor] | None = None,
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
        if noise is not None:
            step = step + noise()
        x = (x - rate(k) * step).clamp(low, high)
    return record.minimum()
