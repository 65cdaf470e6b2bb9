"""One victim scored: an attack's answer against the truth, beside what anybody could guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fedcore.data.encodings import encode
from fedcore.plan import EncodingSpec
from fedcore.seeds import stream
from fedcore.types import LeakageScore, Missing, Reconstruction, Ticket
from testbed.baselines import (
    Auxiliary,
    Guess,
    Pool,
    class_mean_guess,
    mean_image_guess,
    noise_guesses,
)
from testbed.findings import NULLS, Attempt
from testbed.metrics import Metric, match
from testbed.metrics.trains import ORDERED, score_trains

__all__ = ["Case", "Truth", "attempt_of", "baseline_guesses", "score_case"]


class Truth(Protocol):
    """What was really in a batch."""

    @property
    def inputs(self) -> np.ndarray:
        """Raw, in [0, 1], float32 [batch, feature...]."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [batch]."""

    @property
    def encoded_input(self) -> np.ndarray:
        """What the network received, float32 [time, batch, feature...]."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One victim: whose bytes, what was really in them, what the attack made of them.

    Attributes:
        failed: why there is nothing to score, or "".
        guesses: one per restart, examples matched with the truth's; empty where it failed.
    """

    ticket: Ticket
    sha256: str
    truth: Truth | Missing
    answer: Reconstruction | Missing
    failed: str = ""
    guesses: tuple[Guess, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        ticket: Ticket,
        sha256: str,
        truth: Truth | Missing,
        answer: Reconstruction | Missing,
    ) -> Case:
        """Say why nothing can be scored, or line the guesses up with the truth."""
        case = cls(ticket=ticket, sha256=sha256, truth=truth, answer=answer)
        if isinstance(truth, Missing):
            return replace(case, failed=truth.why)
        if isinstance(answer, Missing):
            return replace(case, failed=answer.why)
        if why := _why_not_scored(answer, shape=truth.inputs.shape):
            return replace(case, failed=why)
        return replace(
            case,
            guesses=tuple(
                _matched(
                    Guess(
                        inputs=answer.candidates[restart],
                        labels=answer.labels[restart],
                        trains=None if answer.trains is None else answer.trains[restart],
                    ),
                    truth,
                )
                for restart in range(len(answer.candidates))
            ),
        )

    @property
    def chosen(self) -> Guess | None:
        """The attacker's own choice; None where it failed."""
        if isinstance(self.answer, Missing) or not self.guesses:
            return None
        return self.guesses[self.answer.chosen]

    @property
    def claims_trains(self) -> bool:
        """Whether the answer says what the network received."""
        return isinstance(self.answer, Reconstruction) and self.answer.trains is not None

    @property
    def claims_order(self) -> bool:
        """Whether the answer says when each frame came; one that does not say so denies it."""
        return isinstance(self.answer, Missing) or self.answer.certificate.get(ORDERED, 1.0) != 0


def _why_not_scored(answer: Reconstruction, *, shape: tuple[int, ...]) -> str:
    if answer.failed:
        return answer.failed
    if not np.isfinite(answer.losses).any():
        return "no restart has a finite loss"
    n_answered, *shape_answered = answer.candidates.shape[1:]
    if n_answered < shape[0] or tuple(shape_answered) != shape[1:]:
        return (
            f"the attack answered with shape {answer.candidates.shape[1:]}, the batch has {shape}"
        )
    if not np.isfinite(answer.candidates[answer.chosen]).all():
        return "the reconstruction is not finite"
    return ""


def _matched(guess: Guess, truth: Truth) -> Guess:
    """The guess in the truth's order and in the range that images live in."""
    if not np.isfinite(guess.inputs).all():
        return guess  # a restart that diverged; its metrics say so
    inputs = np.clip(guess.inputs, 0, 1)  # a projection: never takes a guess away from the truth
    order = match(truth.inputs, inputs)
    trains = None if guess.trains is None else guess.trains[:, order]
    return Guess(inputs=inputs[order], labels=guess.labels[order], trains=trains)


def baseline_guesses(
    case: Case, *, seed: int, encoding: EncodingSpec, n_classes: int, auxiliary: Auxiliary
) -> Mapping[str, Sequence[Guess]]:
    """Guesses by baseline; a baseline's score is the mean over its guesses.

    Args:
        case: the victim.
        seed: of the draws.
        encoding: that makes trains of guesses, where the answer claims trains.
        n_classes: to draw labels from.
        auxiliary: examples that no victim holds.
    """
    if isinstance(case.truth, Missing):
        return {}
    n_examples, *shape = case.truth.inputs.shape
    answered = 0 if isinstance(case.answer, Missing) else case.answer.candidates.shape[1]
    n_noise = max(n_examples, answered)
    noise = noise_guesses(seed, case.ticket, shape=(n_noise, *shape), n_classes=n_classes)
    mean_image = mean_image_guess(auxiliary, batch_size=n_examples)
    class_mean = class_mean_guess(auxiliary, labels=case.truth.labels)
    # Noise is matched like an attack's answer, and there is as much of it (the sum of a round holds
    # the examples of all its clients), so that matching favours neither.
    found = {
        "noise": [_matched(draw, case.truth) for draw in noise],
        "mean-image": [mean_image],
        "class-mean": [class_mean],
    }
    if not case.claims_trains:
        return found
    rng = stream(seed, "judge", "trains", case.ticket.round, case.ticket.client_id)
    return {
        name: [replace(guess, trains=encode(encoding, guess.inputs, rng)) for guess in guesses]
        for name, guesses in found.items()
    }


def score_case(
    case: Case,
    name: str,
    metric: Metric,
    *,
    baselines: Mapping[str, Sequence[Guess]],
    pool: Pool,
    labels_are_granted: bool,
) -> LeakageScore:
    """One metric for one victim: the attacker's choice, every restart, the oracle, the nulls."""
    value: float | Missing
    oracle: float | Missing
    each: list[float | Missing] = []
    if case.failed or isinstance(case.answer, Missing):
        value = oracle = Missing(why=case.failed)
    elif metric.of == "labels" and labels_are_granted:
        value = oracle = Missing(why="the threat model grants the labels")
    else:
        each = [_compare(metric, case, guess, pool=pool) for guess in case.guesses]
        value, oracle = each[case.answer.chosen], _best(each, metric)
    return LeakageScore(
        ticket=case.ticket,
        attack=case.answer.attack if isinstance(case.answer, Reconstruction) else "",
        metric=name,
        value=value,
        oracle=oracle,
        baselines={
            null: Missing(why="the class mean is told the labels")
            if null == "class-mean" and metric.of in ("labels", "classes")
            else _mean([_compare(metric, case, guess, pool=pool) for guess in baselines[null]])
            if null in baselines
            else Missing(why=case.failed)
            for null in NULLS
        },
        restarts=tuple(each),
    )


def _compare(metric: Metric, case: Case, guess: Guess, *, pool: Pool) -> float | Missing:
    truth = case.truth
    if isinstance(truth, Missing):
        return truth
    if not np.isfinite(guess.inputs).all():
        return Missing(why="the reconstruction is not finite")
    if metric.of == "labels":
        return metric.of_pair(truth.labels, guess.labels)
    if metric.of == "identity":
        return metric.of_pair(pool.places_of(truth.inputs), pool.distances(guess.inputs))
    if metric.of == "classes":
        return metric.of_pair(truth.labels, pool.class_distances(guess.inputs, truth.labels))
    if metric.of == "trains":
        return score_trains(metric, truth.encoded_input, guess.trains, is_ordered=case.claims_order)
    return metric.of_pair(truth.inputs, guess.inputs)


def _mean(scores: Sequence[float | Missing]) -> float | Missing:
    values: list[float] = []
    for score in scores:
        if isinstance(score, Missing):
            return score
        values.append(score)
    return float(np.mean(values))


def _best(scores: Sequence[float | Missing], metric: Metric) -> float | Missing:
    values = [score for score in scores if not isinstance(score, Missing)]
    if not values:
        return scores[0]
    return max(values) if metric.higher_is_better else min(values)


def attempt_of(case: Case) -> Attempt:
    """The victim as the attack left it."""
    attempt = Attempt(ticket=case.ticket, sha256=case.sha256, failed=case.failed)
    answer = case.answer
    if isinstance(answer, Missing):
        return attempt
    attempt = replace(
        attempt,
        restarts=len(answer.losses),
        n_iterations=answer.n_iterations,
        duration_s=answer.duration_s,
        knowledge=answer.knowledge,
        labels_from=answer.labels_from,
    )
    if not np.isfinite(answer.losses).any():
        return replace(attempt, own_loss=Missing(why="no restart has a finite loss"))
    return replace(attempt, chosen=answer.chosen, own_loss=float(answer.losses[answer.chosen]))
