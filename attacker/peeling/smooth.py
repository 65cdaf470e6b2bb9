"""The search where features are no spikes: L-BFGS, from smooth to sharp, then with convolutions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from attacker.inputs import InputView
from attacker.optimisers import Minimum, OnEvaluation, lbfgs
from attacker.peeling.matching import FeatureMatching

__all__ = ["smooth_then_sharp"]

_FACTORS = (500.0, 10.0, 1.0)  # on the prior's weight, in stages of equal length
_MEMORY = 20  # pairs of steps and gradient changes that L-BFGS keeps
_ROUND = 20  # evaluations at the same slopes


def smooth_then_sharp(
    matching: FeatureMatching,
    starts: Tensor,
    *,
    view: InputView,
    n_evaluations: int,
    polish: float,
    on_evaluation: OnEvaluation,
) -> Minimum:
    """The prior leads to the right place, and then all but lets go.

    Without it at the beginning, most starts end in noise that has nearly the same features.

    Args:
        matching: with the prior's last weight.
        starts: [row, variable].
        view: gives the range that a candidate is put into before slopes are taken at it.
        n_evaluations: in all.
        polish: share of them at the end that match the gradients of convolutions, too, at slopes
            taken anew every 20 evaluations.
        on_evaluation: told after each.
    """
    n_polish = int(polish * n_evaluations) if matching.has_gradients else 0
    ends = [(n_evaluations - n_polish) * k // len(_FACTORS) for k in range(len(_FACTORS) + 1)]
    stages: list[Minimum] = []

    def search(matching: FeatureMatching, rows: Tensor, *, n_evaluations: int) -> Tensor:
        n_before = sum(stage.n_evaluations for stage in stages)
        found = lbfgs(
            matching.evaluate,
            rows,
            n_evaluations=n_evaluations,
            memory=_MEMORY,
            on_evaluation=lambda n, losses: on_evaluation(n_before + n, losses),
        )
        stages.append(found)
        return found.candidates

    rows = starts
    for factor, (begin, end) in zip(_FACTORS, pairwise(ends), strict=True):
        if end > begin:
            smooth = matching.with_prior(factor * matching.prior_weight)
            rows = search(smooth, rows, n_evaluations=end - begin)
    for n_done in range(0, n_polish, _ROUND):
        rows = rows.clamp(view.low, view.high)
        exact = matching.with_convolutions_at(rows)
        rows = search(exact, rows, n_evaluations=min(_ROUND, n_polish - n_done))
    return replace(
        stages[-1],
        curves=torch.cat([stage.curves for stage in stages], dim=1),
        n_evaluations=sum(stage.n_evaluations for stage in stages),
    )
