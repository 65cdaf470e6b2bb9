"""The judge: reconstructions against the sealed truth, always beside what anybody could guess.

Only this module and `testbed.disclose` open the vault. A reconstruction is joined with the truth
by ticket *and* by the SHA-256 of the bytes that were received. The attacker's own choice is what
counts; the best restart by truth stands beside it as the oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.config import Arm, Experiment
from fedcore.errors import RunError
from fedcore.ground_truth import JudgeKey, VictimRecord, open_record
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.types import LeakageScore, Missing, Reconstruction, Ticket
from testbed.baselines import Auxiliary, Guess, Pool, check_disjoint
from testbed.findings import Findings, summarise_all
from testbed.metrics import METRICS, Metric
from testbed.pictures import Picture, write_pictures
from testbed.provenance import own_version
from testbed.results import accepted_updates, answers_of
from testbed.scoring import Case, Truth, attempt_of, baseline_guesses, score_case

__all__ = ["SealedTruths", "judge"]


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
        baselines = baseline_guesses(
            case,
            seed=experiment.seed,
            encoding=arm.encoding,
            n_classes=arm.model.n_classes,
            auxiliary=auxiliary,
        )
        scores += [
            score_case(
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
            name: metric.label_for(shape) + _among(metric, pool, cases)
            for name, metric in metrics.items()
        },
        n_auxiliary=len(auxiliary.inputs),
        caveat=_caveat(cases, seed=experiment.seed),
        attempts=tuple(attempt_of(case) for case in cases),
        scores=tuple(scores),
        summaries=summarise_all(scores, names=tuple(metrics)),
    )
    findings.write(run.scores_file(run_id))
    return findings


def _cases(truths: SealedTruths, run_id: str, *, arm: Arm) -> list[Case]:
    """Every accepted update of a victim round, and whatever else the attack answered, sorted."""
    accepted = {update.ticket: update.sha256 for update in accepted_updates(truths.run, run_id)}
    answers = {answer.ticket: answer for answer in answers_of(truths.run, run_id)}
    victims = {t for t in accepted if t.round in arm.attack.victim_rounds} | answers.keys()
    return [
        Case.of(
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


def _picture(case: Case, truth: Truth, guesses: Mapping[str, Sequence[Guess]]) -> Picture:
    """What the page shows of one victim; a failed attempt keeps its place without an image."""
    return Picture(
        ticket=case.ticket,
        truth=truth.inputs,
        chosen=None if case.chosen is None else case.chosen.inputs,
        mean_image=guesses["mean-image"][0].inputs,
        noise=guesses["noise"][0].inputs,
    )


def _among(metric: Metric, pool: Pool, cases: Sequence[Case]) -> str:
    """What a label should add about the examples that guesses are compared with."""
    if metric.of == "identity":
        return f" (pool of {len(pool)})"
    truths = [case.truth for case in cases if isinstance(case.truth, VictimRecord)]
    if metric.of != "classes" or not truths:
        return ""
    own = [
        metric.of_pair(truth.labels, pool.class_distances(truth.inputs, truth.labels))
        for truth in truths
    ]
    found = [score for score in own if not isinstance(score, Missing)]
    best = f"; the originals themselves: {np.mean(found):.2f}" if found else ""
    return f" (gallery of {len(pool.gallery.inputs)}{best})"


def _caveat(cases: Sequence[Case], *, seed: int) -> str:
    clients = {case.ticket.client_id for case in cases}
    rounds = {case.ticket.round for case in cases}
    return (
        f"{len(cases)} victims are {len(clients)} clients at {len(rounds)} rounds of one training "
        f"run (seed {seed}): the intervals are conditional on that trained model, and another "
        "seed's may differ by more; they take victims for independent draws, which those of one "
        "client or round are not; those by client take clients alone for them, at these rounds"
    )
