"""Two arms against each other: whether it is fair, and what the difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.types import Missing, ThreatModel
from testbed.pictures import Picture
from testbed.results import ArmResults
from testbed.statistics import Estimate, mean_with_interval, welch_difference

__all__ = ["Comparison", "compare", "most_spent", "unequal_conditions"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Mean of the first arm minus mean of the second, for one metric.

    Attributes:
        is_paired: every victim of one arm had the very same examples in the other.
        difference: paired t-interval, or Welch's where the examples differ.
    """

    first: str
    second: str
    metric: str
    is_paired: bool
    difference: Estimate | Missing


def compare(
    first: ArmResults,
    second: ArmResults,
    *,
    metric: str,
    pictures: tuple[Sequence[Picture], Sequence[Picture]],
) -> Comparison:
    """Compare the attacker's chosen candidates in two arms.

    Args:
        first: an arm that was judged.
        second: another one.
        metric: registered name.
        pictures: of the two arms; they tell whether the victims are the same examples.
    """
    scores = _scores(first, metric), _scores(second, metric)
    is_paired = _are_same_examples(*pictures)
    difference: Estimate | Missing
    if is_paired:
        both = sorted(scores[0].keys() & scores[1].keys())
        difference = mean_with_interval([scores[0][v] - scores[1][v] for v in both])
    else:
        difference = welch_difference(list(scores[0].values()), list(scores[1].values()))
    return Comparison(
        first=first.arm.name,
        second=second.arm.name,
        metric=metric,
        is_paired=is_paired,
        difference=difference,
    )


def unequal_conditions(arms: Sequence[ArmResults]) -> list[str]:
    """What differs between the arms' attacks, in the experiment or in what was really spent.

    Empty where attack, options, knowledge, batch, victims, restarts and iterations are the same.
    """
    found = []
    shared = set.intersection(*(set(a.arm.threat.grants) for a in arms))
    for name, values in (
        ("attack", {_answered(a) or a.arm.attack.name for a in arms}),
        ("attack options", {str(sorted(a.arm.attack.options.items())) for a in arms}),
        ("knowledge", {_beyond(shared, a.arm.threat) for a in arms}),
        ("batch size", {a.arm.training.batch_size for a in arms}),
        ("local steps", {a.arm.training.local_steps for a in arms}),
        ("victim rounds", {a.arm.attack.victim_rounds for a in arms}),
        ("restarts granted", {a.arm.attack.restarts for a in arms}),
        ("iterations granted", {a.arm.attack.iterations for a in arms}),
        ("restarts spent", {most_spent(a, "restarts") for a in arms}),
        ("iterations spent", {most_spent(a, "n_iterations") for a in arms}),
    ):
        if len(values) > 1:
            found.append(f"{name} ({', '.join(sorted(str(v) for v in values))})")
    return found


def _beyond(shared: set[str], threat: ThreatModel) -> str:
    return " and ".join(name for name in threat.grants if name not in shared) or "nothing more"


def _answered(arm: ArmResults) -> str:
    return "" if isinstance(arm.findings, Missing) else arm.findings.attack


def most_spent(arm: ArmResults, name: str) -> int:
    """Of all attempts that gave something to score; one that stopped early had the same budget."""
    attempts = () if isinstance(arm.findings, Missing) else arm.findings.attempts
    return max((getattr(a, name) for a in attempts if not a.failed), default=0)


def _scores(arm: ArmResults, metric: str) -> dict[tuple[int, str], float]:
    if isinstance(arm.findings, Missing):
        return {}
    return {
        (score.ticket.round, score.ticket.client_id): score.value
        for score in arm.findings.scores
        if score.metric == metric and not isinstance(score.value, Missing)
    }


def _are_same_examples(first: Sequence[Picture], second: Sequence[Picture]) -> bool:
    truths = [{(p.ticket.round, p.ticket.client_id): p.truth for p in ps} for ps in (first, second)]
    return truths[0].keys() == truths[1].keys() and all(
        np.array_equal(truth, truths[1][victim]) for victim, truth in truths[0].items()
    )
