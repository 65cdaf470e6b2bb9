"""The judge: reconstructions against the sealed truth, always beside what anybody could guess.

Only this module and `testbed.disclose` open the vault. A reconstruction is joined with the truth
by ticket *and* by the SHA-256 of the bytes that were received. The attacker's own choice is what
counts; the best restart by truth stands beside it as the oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedcore.config import Arm, Experiment
from fedcore.data.encodings import encode
from fedcore.errors import RunError
from fedcore.ground_truth import JudgeKey, VictimRecord, open_record
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.seeds import stream
from fedcore.types import LeakageScore, Missing, Reconstruction, Ticket
from testbed.baselines import (
    Auxiliary,
    Guess,
    Pool,
    check_disjoint,
    class_mean_guess,
    mean_image_guess,
    noise_guesses,
)
from testbed.findings import NULLS, Attempt, Findings, summarise
from testbed.metrics import METRICS, Metric, match
from testbed.metrics.trains import ORDERED, score_trains
from testbed.pictures import Picture, write_pictures
from testbed.provenance import own_version
from testbed.results import accepted_updates, answers_of

__all__ = ["SealedTruths", "judge"]


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One victim: whose bytes, what was really in them, what the attack made of them.

    Attributes:
        failed: why there is nothing to score, or "".
        guesses: one per restart, examples matched with the truth's; empty where it failed.
    """

    ticket: Ticket
    sha256: str
    truth: VictimRecord | Missing
    answer: Reconstruction | Missing
    failed: str = ""
    guesses: tuple[Guess, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        ticket: Ticket,
        sha256: str,
        truth: VictimRecord | Missing,
        answer: Reconstruction | Missing,
    ) -> _Case:
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
    def claims_trains(self) -> bool:
        """Whether the answer says what the network received."""
        return isinstance(self.answer, Reconstruction) and self.answer.trains is not None

    @property
    def claims_order(self) -> bool:
        """Whether the answer says when each frame came; one that does not say so denies it."""
        return isinstance(self.answer, Missing) or self.answer.certificate.get(ORDERED, 1.0) != 0


@dataclass(frozen=True, kw_only=True)
class SealedTruths:
    """What a run's clients sealed, and the key that opens it."""

    run: RunFolder
    key: JudgeKey

    @classmethod
    def open(cls, run: RunFolder, private: PrivateFolder) -> SealedTruths:
        """With the run's own key; RunError where it is not there."""
        return cls(run=run, key=JudgeKey.read(private.judge_private))

    def of(self, ticket: Ticket, sha256: str) -> VictimRecord | Missing:
        """The record of an update's bytes, or why it is not there.

        Raises:
            RunError: the key does not open it, or it is another update's.
        """
        path = self.run.sealed_file(ticket, sha256)
        try:
            sealed = path.read_bytes()
        except OSError:
            return Missing(
                why="the vault holds no record of these bytes; collect it from the client's board"
            )
        record = open_record(sealed, key=self.key)
        if (record.ticket, record.sha256) != (ticket, sha256):
            raise RunError(
                f"{path}: the record inside is of {record.ticket} {record.sha256[:12]}..."
            )
        return record


def judge(run: RunFolder, private: PrivateFolder) -> tuple[Findings, ...]:
    """Score every arm of a run and write `scores/<run id>.json`.

    Pictures of truth and guesses go to the report's folder, which is to be handled like the data.

    Raises:
        RunError: the key does not open the vault, a reconstruction belongs to other bytes than
            the accepted ones, or the auxiliary set shares examples with victims.
    """
    experiment = run.read_experiment()
    truths = SealedTruths.open(run, private)
    auxiliary = Auxiliary.read(private.auxiliary_file)
    return tuple(
        _judge_arm(experiment, arm, truths=truths, auxiliary=auxiliary) for arm in experiment.arms
    )


def _judge_arm(
    experiment: Experiment, arm: Arm, *, truths: SealedTruths, auxiliary: Auxiliary
) -> Findings:
    run, run_id = truths.run, experiment.run_id(arm)
    cases = _cases(truths, run_id, arm=arm)
    victims = [case.truth.inputs for case in cases if isinstance(case.truth, VictimRecord)]
    check_disjoint(auxiliary, victims)

    pool = Pool.of(auxiliary, victims)
    metrics = {name: METRICS.get(name) for name in METRICS.names()}
    scores: list[LeakageScore] = []
    pictures: list[Picture] = []
    for case in cases:
        baselines = _baseline_guesses(case, experiment, arm=arm, auxiliary=auxiliary)
        scores += [
            _score(
                case,
                name,
                metric,
                baselines=baselines,
                pool=pool,
                labels_are_granted=arm.threat.labels,
            )
            for name, metric in metrics.items()
        ]
        if isinstance(case.truth, VictimRecord):
            pictures.append(_picture(case, case.truth, baselines))
    write_pictures(run, run_id, pictures)

    shape = arm.model.input_shape
    findings = Findings(
        judge_version=own_version(),
        experiment_digest=experiment.digest,
        run_id=run_id,
        arm=arm.name,
        attack=", ".join(sorted({score.attack for score in scores if score.attack})),
        labels={
            name: metric.label_for(shape)
            + (f" (pool of {len(pool)})" if metric.of == "identity" else "")
            for name, metric in metrics.items()
        },
        n_auxiliary=len(auxiliary.inputs),
        caveat=_caveat(cases, seed=experiment.seed),
        attempts=tuple(_attempt(case) for case in cases),
        scores=tuple(scores),
        summaries=tuple(
            summarise(
                [s for s in scores if s.metric == name and of_round in (None, s.ticket.round)],
                metric=metric,
                name=name,
                of_round=of_round,
            )
            for name, metric in metrics.items()
            for of_round in (None, *sorted({case.ticket.round for case in cases}))
        ),
    )
    findings.write(run.scores_file(run_id))
    return findings


def _cases(truths: SealedTruths, run_id: str, *, arm: Arm) -> list[_Case]:
    """Every accepted update of a victim round, and whatever else the attack answered, sorted."""
    accepted = {update.ticket: update.sha256 for update in accepted_updates(truths.run, run_id)}
    answers = {answer.ticket: answer for answer in answers_of(truths.run, run_id)}
    victims = {t for t in accepted if t.round in arm.attack.victim_rounds} | answers.keys()
    return [
        _Case.of(
            ticket=ticket,
            sha256=_agreed_sha256(ticket, accepted, answers),
            truth=truths.of(ticket, accepted[ticket]),
            answer=answers.get(ticket, Missing(why="the attack left no reconstruction")),
        )
        for ticket in sorted(victims)
    ]


def _agreed_sha256(
    ticket: Ticket, accepted: Mapping[Ticket, str], answers: Mapping[Ticket, Reconstruction]
) -> str:
    """The digest of the accepted bytes, which the reconstruction must have been made from."""
    if ticket not in accepted:
        raise RunError(f"{ticket}: a reconstruction of an update that was never accepted")
    if ticket in answers and answers[ticket].sha256 != accepted[ticket]:
        raise RunError(
            f"{ticket}: the reconstruction was made from bytes {answers[ticket].sha256[:12]}..., "
            f"but {accepted[ticket][:12]}... were accepted; attack this run again"
        )
    return accepted[ticket]


def _why_not_scored(answer: Reconstruction, *, shape: tuple[int, ...]) -> str:
    if answer.failed:
        return answer.failed
    if not np.isfinite(answer.losses).any():
        return "no restart has a finite loss"
    if answer.candidates.shape[1:] != shape:
        return (
            f"the attack answered with shape {answer.candidates.shape[1:]}, the batch has {shape}"
        )
    if not np.isfinite(answer.candidates[answer.chosen]).all():
        return "the reconstruction is not finite"
    return ""


def _matched(guess: Guess, truth: VictimRecord) -> Guess:
    """The guess in the truth's order and in the range that images live in."""
    if not np.isfinite(guess.inputs).all():
        return guess  # a restart that diverged; its metrics say so
    inputs = np.clip(guess.inputs, 0, 1)  # a projection: never takes a guess away from the truth
    order = match(truth.inputs, inputs)
    trains = None if guess.trains is None else guess.trains[:, order]
    return Guess(inputs=inputs[order], labels=guess.labels[order], trains=trains)


def _baseline_guesses(
    case: _Case, experiment: Experiment, *, arm: Arm, auxiliary: Auxiliary
) -> Mapping[str, Sequence[Guess]]:
    """Guesses by baseline; a baseline's score is the mean over its guesses."""
    if isinstance(case.truth, Missing):
        return {}
    shape = case.truth.inputs.shape
    noise = noise_guesses(experiment.seed, case.ticket, shape=shape, n_classes=arm.model.n_classes)
    mean_image = mean_image_guess(auxiliary, batch_size=shape[0])
    class_mean = class_mean_guess(auxiliary, labels=case.truth.labels)
    # Noise is matched like an attack's answer, so that matching favours neither.
    found = {
        "noise": [_matched(draw, case.truth) for draw in noise],
        "mean-image": [mean_image],
        "class-mean": [class_mean],
    }
    if not case.claims_trains:
        return found
    rng = stream(experiment.seed, "judge", "trains", case.ticket.round, case.ticket.client_id)
    return {
        name: [replace(guess, trains=encode(arm.encoding, guess.inputs, rng)) for guess in guesses]
        for name, guesses in found.items()
    }


def _score(
    case: _Case,
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
    if case.failed:
        value = oracle = Missing(why=case.failed)
    elif metric.of == "labels" and labels_are_granted:
        value = oracle = Missing(why="the threat model grants the labels")
    else:
        each = [_compare(metric, case, guess, pool=pool) for guess in case.guesses]
        value, oracle = each[_chosen(case)], _best(each, metric)
    return LeakageScore(
        ticket=case.ticket,
        attack=case.answer.attack if isinstance(case.answer, Reconstruction) else "",
        metric=name,
        value=value,
        oracle=oracle,
        baselines={
            null: Missing(why="the class mean is told the labels")
            if (null, metric.of) == ("class-mean", "labels")
            else _mean([_compare(metric, case, guess, pool=pool) for guess in baselines[null]])
            if null in baselines
            else Missing(why=case.failed)
            for null in NULLS
        },
        restarts=tuple(each),
    )


def _compare(metric: Metric, case: _Case, guess: Guess, *, pool: Pool) -> float | Missing:
    truth = case.truth
    if isinstance(truth, Missing):
        return truth
    if not np.isfinite(guess.inputs).all():
        return Missing(why="the reconstruction is not finite")
    if metric.of == "labels":
        return metric.of_pair(truth.labels, guess.labels)
    if metric.of == "identity":
        return metric.of_pair(pool.places_of(truth.inputs), pool.distances(guess.inputs))
    if metric.of == "trains":
        return score_trains(metric, truth.encoded_input, guess.trains, is_ordered=case.claims_order)
    return metric.of_pair(truth.inputs, guess.inputs)


def _chosen(case: _Case) -> int:
    return case.answer.chosen if isinstance(case.answer, Reconstruction) else 0


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


def _attempt(case: _Case) -> Attempt:
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
    )
    if not np.isfinite(answer.losses).any():
        return replace(attempt, own_loss=Missing(why="no restart has a finite loss"))
    return replace(attempt, chosen=answer.chosen, own_loss=float(answer.losses[answer.chosen]))


def _picture(case: _Case, truth: VictimRecord, guesses: Mapping[str, Sequence[Guess]]) -> Picture:
    """What the page shows of one victim; a failed attempt keeps its place without an image."""
    return Picture(
        ticket=case.ticket,
        truth=truth.inputs,
        chosen=case.guesses[_chosen(case)].inputs if case.guesses else None,
        mean_image=guesses["mean-image"][0].inputs,
        noise=guesses["noise"][0].inputs,
    )


def _caveat(cases: Sequence[_Case], *, seed: int) -> str:
    clients = {case.ticket.client_id for case in cases}
    rounds = {case.ticket.round for case in cases}
    return (
        f"{len(cases)} victims are {len(clients)} clients at {len(rounds)} rounds of one training "
        f"run (seed {seed}): the intervals are conditional on that trained model, victims of one "
        "client or round are not independent draws, and another seed's model may differ by more"
    )
