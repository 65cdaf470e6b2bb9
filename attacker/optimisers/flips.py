"""Binary trains, changed spike by spike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacker.optimisers.record import Evaluate, Minimum, OnEvaluation, Record

__all__ = ["flip_spikes"]

_NO_SLOPE = 1e-32  # a gradient below it says nothing


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
    record = Record(
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
