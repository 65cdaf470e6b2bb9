"""What an arm's defences leave to chance, as far as a bound on reconstructions can count on it.

Only the first draw counts, and noise that is added right behind it: whatever comes later acts on
what is already random, and can only take information away (data processing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from fedcore.defences.base import DEFENCES, Defence
from fedcore.defences.clip import Clip
from fedcore.defences.compress import Qsgd, TopK, Withhold
from fedcore.defences.dp_sgd import DpSgd
from fedcore.defences.gaussian import Gaussian
from fedcore.defences.laplace import Laplace
from fedcore.plan import Choice
from fedcore.strict import build
from fedcore.types import Missing

__all__ = ["Mechanism", "mechanism_of"]

_NOISES = (Gaussian, Laplace, DpSgd)
_CUTTING = (TopK, Withhold)
"""Where these are overlooked, more is taken to be sent than is: a bound is lower, and still one."""
_EARLY = {"model", "informed_update"}
"""Hooks that act before any defence's `update`, wherever in the chain they stand."""


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """The way of an update up to its first draw, and that draw: added noise, or rounding.

    Attributes:
        names: of the defences that draw.
        per_example: clips every example's gradient, and divides their sum by its batch size.
        max_norm: the update's, enforced before the draw. A clip behind a cut is overlooked like
            the cut: both together only shrink what added noise must hide.
        sigma: of the noise on each value, as the root of the inverse of its Fisher information: a
            Gaussian's standard deviation; a Laplace's scale, since the score of a location is
            sign(x) / scale. Of a sum of both the information is at most that of sigma^2 added up
            (Stam 1959), so that a bound by it is a bound.
        levels: of QSGD's rounding, above zero; 0 where noise is added instead.
    """

    names: tuple[str, ...]
    per_example: DpSgd | None = None
    max_norm: float = math.inf
    sigma: float = 0.0
    levels: int = 0


def mechanism_of(choices: Sequence[Choice]) -> Mechanism | Missing:
    """Of an arm's defences; Missing where nothing draws, or where no bound is known."""
    steps = [build(DEFENCES, choice) for choice in choices]
    before = list(takewhile(lambda step: not _draws(step), steps))
    for choice, step in zip(choices, steps, strict=True):
        is_known = step not in before or isinstance(step, (Clip, *_CUTTING, *_NOISES))
        if step.hooks & _EARLY or not is_known:
            return Missing(why=f"no bound is known behind what {choice.name!r} does")
    if before == steps:
        return Missing(why="no defence adds noise; --sigma asks what if")
    uncut = list(takewhile(lambda step: not isinstance(step, _CUTTING), before))
    drawing = steps[len(before)]
    if isinstance(drawing, Qsgd) and any(isinstance(step, Clip) for step in before[len(uncut) :]):
        return Missing(why="no bound is known for rounding behind values cut and then clipped")
    clippers = [step for step in steps if isinstance(step, DpSgd)]
    if len(clippers) > 1:
        return Missing(why="no bound is known for examples' gradients that are clipped twice")
    names = [choice.name for choice in choices[len(before) :]]
    noises = list(takewhile(lambda step: isinstance(step, _NOISES), steps[len(before) :]))
    return Mechanism(
        names=tuple(names[: max(1, len(noises))]),
        per_example=clippers[0] if clippers else None,
        max_norm=min([math.inf, *(step.max_norm for step in uncut if isinstance(step, Clip))]),
        sigma=math.sqrt(sum(_inverse_information(step) for step in noises)),
        levels=drawing.levels if isinstance(drawing, Qsgd) else 0,
    )


def _draws(step: Defence) -> bool:
    return isinstance(step, Qsgd) or _inverse_information(step) > 0


def _inverse_information(step: Defence) -> float:
    """Of the noise that a defence adds to each value; 0 for none."""
    if isinstance(step, Gaussian | DpSgd):
        return step.sigma**2
    return step.scale**2 if isinstance(step, Laplace) else 0.0
