"""Everything about a run folder, loaded once and joined on (run_id, round, client_id)."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from aggregator.records import AcceptedUpdate, AuditRow, ClientRow, ClosedRound, StoreReader
from fedcore.config import Arm, Experiment
from fedcore.energy import Evaluation, PhaseReport
from fedcore.errors import RunError
from fedcore.layout import RunFolder
from fedcore.reconstructions import read_reconstructions
from fedcore.types import Missing, Reconstruction, Ticket
from testbed.costs import RoundCost, round_cost
from testbed.exposure import Exposure, read_exposures
from testbed.findings import Findings, read_findings
from testbed.statistics import Share, share_of_all

__all__ = [
    "Accuracy",
    "ArmResults",
    "Results",
    "accepted_updates",
    "answers_of",
    "load_results",
]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Of the weights that a round started from: sum of correct over sum of examples."""

    round: int
    share: Share | Missing
    n_clients: int


@dataclass(frozen=True, kw_only=True)
class ArmResults:
    """What one arm left behind.

    Attributes:
        updates: accepted, in order of arrival.
        reports: of the latest attempt per ticket, by round and client.
        rounds: closed ones.
        duration_s: from the first round's opening to the last one's closing.
        reconstructions: the attack's answers, by round and client.
        findings: the judge's, or why there are none.
        exposures: scores without an attack; none where they were not asked for.
        missing_graphs: why clients on ONNX could not be given some kinds of graphs, by kind.
    """

    arm: Arm
    run_id: str
    updates: tuple[AcceptedUpdate, ...]
    reports: tuple[PhaseReport, ...]
    rounds: tuple[ClosedRound, ...]
    duration_s: float | Missing
    reconstructions: tuple[Reconstruction, ...]
    findings: Findings | Missing
    exposures: tuple[Exposure, ...] = ()
    missing_graphs: Mapping[str, Missing] = field(default_factory=dict)

    def of_clients(self, clients: Collection[str]) -> ArmResults:
        """What some of its clients left behind; rounds and their time are everybody's."""
        found = self.findings
        return replace(
            self,
            updates=tuple(u for u in self.updates if u.ticket.client_id in clients),
            reports=tuple(r for r in self.reports if r.ticket.client_id in clients),
            reconstructions=tuple(r for r in self.reconstructions if r.ticket.client_id in clients),
            findings=found if isinstance(found, Missing) else found.of_clients(clients),
            exposures=tuple(e for e in self.exposures if e.ticket.client_id in clients),
        )

    @functools.cached_property
    def costs(self) -> Mapping[Ticket, RoundCost]:
        """What each update's making cost, by ticket; rounds that only evaluate have no update."""
        made = {update.ticket for update in self.updates}
        return {r.ticket: round_cost(r) for r in self.reports if r.ticket in made}

    @functools.cached_property
    def accuracies(self) -> tuple[Accuracy, ...]:
        """Accuracy per evaluated round, in order."""
        by_round: dict[int, list[Evaluation]] = {}
        for report in self.reports:
            if report.evaluation is not None:
                by_round.setdefault(report.ticket.round, []).append(report.evaluation)
        return tuple(
            Accuracy(
                round=number,
                share=share_of_all([(one.n_correct, one.n_examples) for one in found]),
                n_clients=len(found),
            )
            for number, found in sorted(by_round.items())
        )


@dataclass(frozen=True, kw_only=True)
class Results:
    """A run folder, loaded."""

    folder: RunFolder
    experiment: Experiment
    arms: tuple[ArmResults, ...]
    audit: tuple[AuditRow, ...]
    clients: tuple[ClientRow, ...]


def accepted_updates(run: RunFolder, run_id: str) -> list[AcceptedUpdate]:
    """Accepted updates of one arm in order of arrival.

    Raises:
        RunError: the run has no store yet.
    """
    with StoreReader(run.store_file) as store:
        return store.updates(run_id)


def answers_of(run: RunFolder, run_id: str) -> tuple[Reconstruction, ...]:
    """The attack's answers on one arm, by round and client; none where it was not attacked.

    Raises:
        RunError: there are answers, but they cannot be read.
    """
    folder = run.attack(run_id)
    if not any(folder.glob("reconstructions.*")):
        return ()
    return tuple(sorted(read_reconstructions(folder), key=lambda answer: answer.ticket))


def load_results(run: RunFolder) -> Results:
    """Load a run folder, finished or not.

    Raises:
        ConfigError: it is no run folder.
        RunError: it has no store yet.
    """
    experiment = run.read_experiment()
    with StoreReader(run.store_file) as store:
        return Results(
            folder=run,
            experiment=experiment,
            arms=tuple(_load_arm(run, experiment, arm, store=store) for arm in experiment.arms),
            audit=tuple(store.audit()),
            clients=tuple(store.clients()),
        )


def _load_arm(
    run: RunFolder, experiment: Experiment, arm: Arm, *, store: StoreReader
) -> ArmResults:
    run_id = experiment.run_id(arm)
    rounds = store.rounds(run_id)
    # Reports come sorted by attempt, and the latest one repeats what the earlier ones said.
    latest = {report.ticket: report for report in store.reports(run_id)}
    findings: Findings | Missing
    try:
        findings = read_findings(run.scores_file(run_id))
    except RunError as error:
        findings = Missing(why=str(error))
    return ArmResults(
        arm=arm,
        run_id=run_id,
        updates=tuple(store.updates(run_id)),
        reports=tuple(latest[ticket] for ticket in sorted(latest)),
        rounds=tuple(rounds),
        duration_s=(rounds[-1].closed_wall_ns - rounds[0].opened_wall_ns) * 1e-9
        if rounds
        else Missing(why="no round is closed yet"),
        reconstructions=answers_of(run, run_id),
        findings=findings,
        exposures=read_exposures(run, run_id),
        missing_graphs=run.missing_graphs(arm),
    )
