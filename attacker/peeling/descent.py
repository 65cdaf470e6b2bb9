"""Adam for losses with many flat steps in them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attacker.optimisers import Minimum, OnEvaluation

__all__ = ["EvaluateBeside", "jittered_adam"]

EvaluateBeside = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Candidates [row, variable] and an offset [variable] -> losses [row] beside the candidates, and
their gradients [row, variable]."""

_CURVE_POINTS = 50


def jittered_adam(
    evaluate: EvaluateBeside,
    start: Tensor,
    *,
    n_evaluations: int,
    learning_rate: float,
    jitter: float,
    low: float,
    high: float,
    seed: int,
    on_evaluation: OnEvaluation,
) -> Minimum:
    """Adam within a box, looking from places beside the candidate.

    Kingma and Ba 2015 (arXiv 1412.6980, Algorithm 1) with a learning rate that falls to 0 along a
    half cosine. Gradients are taken at the candidate plus normal noise, whose size falls to 0 on a
    line: behind thresholds a loss says little about its neighbourhood. All rows meet the same
    noise. Of a row the last candidate is kept, not the lowest loss on the way, for lower losses
    than that are often found in narrow, wrong places.

    Args:
        evaluate: losses and gradients.
        start: [row, variable]; put into the box first.
        n_evaluations: to make; the last one only measures, without noise.
        learning_rate: at the beginning, in units of the variables.
        jitter: standard deviation of the noise at the beginning, in the same units.
        low: edge of the box.
        high: edge of the box.
        seed: of the noise.
        on_evaluation: told after each, with the losses as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    point_every = math.ceil(n_evaluations / _CURVE_POINTS)
    curve = []
    x = start.clamp(low, high)
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(1, n_evaluations):
        part_done = (k - 1) / (n_evaluations - 1)
        noise = torch.randn(x.shape[1], generator=generator, dtype=x.dtype, device="cpu").to(x)
        losses, slopes = evaluate(x, jitter * (1 - part_done) * noise)
        if (k - 1) % point_every == 0:
            curve.append(losses)
        on_evaluation(k, losses)
        mean = 0.9 * mean + 0.1 * slopes
        square = 0.999 * square + 0.001 * slopes.square()
        step = (mean / (1 - 0.9**k)) / ((square / (1 - 0.999**k)).sqrt() + 1e-12)
        rate = learning_rate * (1 + math.cos(math.pi * part_done)) / 2
        x = (x - rate * step).clamp(low, high)
    losses, _ = evaluate(x, x.new_zeros(x.shape[1]))
    on_evaluation(n_evaluations, losses)
    return Minimum(
        candidates=x,
        losses=losses,
        curves=torch.stack([*curve, losses], dim=1),
        n_evaluations=n_evaluations,
    )
