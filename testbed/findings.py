"""What the judge found on one run: the content of `scores/<run id>.json`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedcore.errors import RunError
from fedcore.registry import nearest
from fedcore.strict import canonical_json, parse
from fedcore.types import LeakageScore, Missing, Ticket
from testbed.metrics import METRICS, Metric
from testbed.statistics import (
    Estimate,
    Share,
    clustered_mean,
    mean_with_interval,
    share_with_interval,
)

__all__ = [
    "BASELINES",
    "NULLS",
    "Attempt",
    "Findings",
    "Summary",
    "margin",
    "read_findings",
    "summarise",
    "summarise_all",
]

BASELINES = ("noise", "mean-image")
"""What anybody scores without the update; every metric stands beside both."""

NULLS = (*BASELINES, "class-mean")
"""And what somebody scores who is told the true labels, and nothing else."""

_NO_ANSWER = Missing(why="there is no reconstruction")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One victim as the attack left it, whether it can be scored or not.

    Attributes:
        sha256: of the received bytes.
        failed: why there is nothing to score, or "".
        restarts: candidates that the attack kept.
        chosen: index of the one with the lowest own loss.
        own_loss: the attack's objective there.
        n_iterations: gradient evaluations per restart.
        duration_s: per victim.
        knowledge: the capabilities that the attack used.
        labels_from: where it has the labels from; see `Reconstruction`.
    """

    ticket: Ticket
    sha256: str
    failed: str
    restarts: int = 0
    chosen: int | None = None
    own_loss: float | Missing = _NO_ANSWER
    n_iterations: int = 0
    duration_s: float = 0.0
    knowledge: tuple[str, ...] = ()
    labels_from: str = ""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric over all victims of a run, or over those of one round.

    Attributes:
        round: None for all rounds.
        n: victims with a score.
        n_missing: victims without one; their reasons stand in the scores.
        mean: of the attacker's chosen candidates; its interval takes victims for independent.
        by_client: the mean over clients of each one's mean; its interval takes only clients for
            independent, and rounds as they are.
        oracle: of the best restarts by truth.
        baselines: mean by name in `NULLS`, over the same victims.
        differences: mean of (score - baseline) over the same victims, by the same names.
        success: victims better than *both* baselines, of all victims, scored or not.
        restart_success: restarts better than both baselines, of all restarts. Those of one victim
            are not independent draws.
        rdlv: relative data leakage value, of SSIM alone: (score - mean image's) / mean image's.
    """

    metric: str
    round: int | None
    n: int
    n_missing: int
    mean: Estimate | Missing
    by_client: Estimate | Missing
    oracle: Estimate | Missing
    baselines: Mapping[str, Estimate | Missing]
    differences: Mapping[str, Estimate | Missing]
    success: Share | Missing
    restart_success: Share | Missing
    rdlv: Estimate | Missing


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything the judge says about one arm.

    Attributes:
        judge_version: of the Leakwatt that judged.
        experiment_digest: of the resolved experiment.
        attack: that really answered; "" where none did.
        labels: metric name -> how it is called on the page, with SSIM's window.
        n_auxiliary: images behind the mean-image baseline, none of which is a victim's.
        caveat: what the intervals do not cover.
    """

    judge_version: str
    experiment_digest: str
    run_id: str
    arm: str
    attack: str
    labels: Mapping[str, str]
    n_auxiliary: int
    caveat: str
    attempts: tuple[Attempt, ...]
    scores: tuple[LeakageScore, ...]
    summaries: tuple[Summary, ...]

    def summary(self, metric: str, *, of_round: int | None = None) -> Summary:
        """The summary of a metric over all victims, or over those of one round.

        Raises:
            RunError: the judge knew no such metric or round.
        """
        for summary in self.summaries:
            if summary.metric == metric and summary.round == of_round:
                return summary
        raise RunError(
            f"{self.run_id}: no scores for metric {metric!r}, round {of_round}"
            f"{nearest(metric, sorted(self.labels))}"
        )

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds that have victims."""
        return tuple(sorted({attempt.ticket.round for attempt in self.attempts}))

    def of_clients(self, clients: Collection[str]) -> Findings:
        """The same of some clients' victims alone, whose summaries are taken over them."""
        scores = [score for score in self.scores if score.ticket.client_id in clients]
        return replace(
            self,
            attempts=tuple(a for a in self.attempts if a.ticket.client_id in clients),
            scores=tuple(scores),
            summaries=summarise_all(scores, names=tuple(self.labels)),
        )

    def write(self, path: Path) -> None:
        """Write canonical JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_bytes(canonical_json(self) + b"\n")
        beside.replace(path)


def margin(summary: Summary) -> Estimate | Missing:
    """The paired difference of the attack to the better baseline of the two."""
    is_high = METRICS.get(summary.metric).higher_is_better
    known = {b: e.value for b, e in summary.baselines.items() if isinstance(e, Estimate)}
    if not known:
        return summary.mean if isinstance(summary.mean, Missing) else Missing(why="no baseline")
    better = (max if is_high else min)(known, key=lambda baseline: known[baseline])
    return summary.differences[better]


def read_findings(path: Path) -> Findings:
    """Read a scores file.

    Raises:
        RunError: it is not there, or not one.
        ConfigError: it was written by another version.
    """
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: no scores ({error}); run `leakwatt judge` first") from error
    return parse(Findings, table, where=path.name)


def summarise_all(scores: Sequence[LeakageScore], *, names: Sequence[str]) -> tuple[Summary, ...]:
    """Every metric over all rounds, then over each round that has a victim.

    Args:
        scores: of all metrics.
        names: of the metrics.
    """
    rounds = (None, *sorted({score.ticket.round for score in scores}))
    return tuple(
        summarise(
            [s for s in scores if s.metric == name and of_round in (None, s.ticket.round)],
            metric=METRICS.get(name),
            name=name,
            of_round=of_round,
        )
        for name in names
        for of_round in rounds
    )


def summarise(
    scores: Sequence[LeakageScore], *, metric: Metric, name: str, of_round: int | None
) -> Summary:
    """Aggregate one metric over victims.

    Args:
        scores: of this metric, one per victim.
        metric: says which direction is better.
        name: its registered name.
        of_round: the round that the scores come from; None for all.
    """
    scored = [score for score in scores if not isinstance(score.value, Missing)]
    n_better = sum(_is_success(score.value, score, metric=metric) for score in scored)
    restarts = [
        _is_success(value, score, metric=metric) for score in scored for value in score.restarts
    ]
    return Summary(
        metric=name,
        round=of_round,
        n=len(scored),
        n_missing=len(scores) - len(scored),
        mean=mean_with_interval([_number(score.value) for score in scored]),
        by_client=clustered_mean(
            [_number(score.value) for score in scored],
            clusters=[score.ticket.client_id for score in scored],
        ),
        oracle=mean_with_interval([_number(score.oracle) for score in scored]),
        baselines={null: _mean([score.baselines[null] for score in scored]) for null in NULLS},
        differences={
            null: _mean([_less(score.value, score.baselines[null]) for score in scored])
            for null in NULLS
        },
        success=share_with_interval(n_better, len(scores))
        if scored
        else Missing(why="no victim has a score"),
        restart_success=share_with_interval(sum(restarts), len(restarts)),
        rdlv=_mean([_relative(score) for score in scored])
        if name == "ssim"
        else Missing(why="RDLV is of SSIM alone"),
    )


def _is_success(value: float | Missing, score: LeakageScore, *, metric: Metric) -> bool:
    """Whether a value is better than both baselines of its victim; what is missing is not."""
    return not isinstance(value, Missing) and all(
        metric.is_better(value, _number(score.baselines[baseline])) for baseline in BASELINES
    )


def _relative(score: LeakageScore) -> float | Missing:
    """RDLV of one victim (Hatamizadeh et al. 2023, as NVFlare has it), the prior being the mean."""
    prior = _number(score.baselines["mean-image"])
    if prior <= 0:
        return Missing(why="the mean image has no positive similarity to the truth")
    return (_number(score.value) - prior) / prior


def _less(value: float | Missing, baseline: float | Missing) -> float | Missing:
    return baseline if isinstance(baseline, Missing) else _number(value) - baseline


def _mean(values: Sequence[float | Missing]) -> Estimate | Missing:
    """Over the values that are there; where none is, the first reason."""
    found = [value for value in values if not isinstance(value, Missing)]
    reasons = [value for value in values if isinstance(value, Missing)]
    return mean_with_interval(found) if found or not reasons else reasons[0]


def _number(value: float | Missing) -> float:
    """A value that the judge guarantees: whoever has a score has an oracle and both baselines.

    Raises:
        RunError: the guarantee is broken; nothing is shown without its baselines.
    """
    if isinstance(value, Missing):
        raise RunError(f"a score without its baselines is not shown ({value.why})")
    return value
