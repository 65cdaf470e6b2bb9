"""Every table of a run, for other programs; measured and modelled joules never share a column."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aggregator.records import AcceptedUpdate, AuditRow, ClientRow, ClosedRound
from fedcore.devices import Agreement
from fedcore.energy import EnergyReading, PhaseRecord, PhaseReport, WindowRecord
from fedcore.layout import RunFolder
from fedcore.operations import LayerCount
from fedcore.types import Missing, Ticket
from testbed.by_device import DeviceResults, by_device, contradiction, deployments
from testbed.costs import mean_measured, mean_modelled
from testbed.exposure import Exposure
from testbed.findings import Attempt, Findings
from testbed.results import ArmResults, Results, load_results
from testbed.statistics import Estimate
from testbed.tables import Format, Table, table_of, write_table

__all__ = [
    "ConditionsRow",
    "DeploymentRow",
    "DeviceRow",
    "EvaluationRow",
    "PhaseRow",
    "ReadingRow",
    "ScoreRow",
    "export",
]

T = TypeVar("T")
V = TypeVar("V")

_Records = Sequence[tuple[PhaseReport, Sequence[PhaseRecord | WindowRecord]]]


@dataclass(frozen=True, kw_only=True)
class PhaseRow:
    """One phase, or a window around phases, for export.

    The two energies are of different kinds and never added.
    """

    ticket: Ticket
    attempt: int
    position: int
    phase: str
    start_mono_ns: int
    duration_s: float
    cpu_s: float
    n_measured_rails: int | Missing
    modelled_energy_j: float | Missing
    modelled_low_j: float | Missing
    modelled_high_j: float | Missing
    modelled_by: str | Missing


@dataclass(frozen=True, kw_only=True)
class ReadingRow:
    """One rail's measured energy in one phase, for export; see `EnergyReading`."""

    ticket: Ticket
    attempt: int
    position: int
    phase: str
    measured_energy_j: float
    measured_uncertainty_j: float
    duration_s: float
    rail: str
    boundary: str
    method: str
    coverage: float
    n_samples: int
    longest_gap_s: float
    meter: str
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConditionsRow:
    """How a client's machine was at the begin and end of a round, for export."""

    ticket: Ticket
    attempt: int
    start_hottest_c: float | Missing
    end_hottest_c: float | Missing
    start_throttling: Mapping[str, int] | Missing
    end_throttling: Mapping[str, int] | Missing
    start_clock_hz: tuple[int, int] | Missing
    end_clock_hz: tuple[int, int] | Missing


@dataclass(frozen=True, kw_only=True)
class DeviceRow:
    """One device in one arm, for export; the two kinds of joules are never in one column."""

    run_id: str
    device: str
    clients: tuple[str, ...]
    backends: tuple[str, ...]
    versions: tuple[str, ...]
    computing: tuple[str, ...]
    n_client_rounds: int
    accuracy: float | Missing
    measured_energy_j: float | Missing
    measured_low_j: float | Missing
    measured_high_j: float | Missing
    measured_by: str | Missing
    measured_flags: tuple[str, ...] | Missing
    modelled_energy_j: float | Missing
    modelled_low_j: float | Missing
    modelled_high_j: float | Missing
    modelled_by: str | Missing
    n_victims: int | Missing
    psnr_db: float | Missing
    psnr_noise_db: float | Missing
    psnr_mean_image_db: float | Missing
    success: float | Missing


@dataclass(frozen=True, kw_only=True)
class DeploymentRow:
    """What a deployed form did on one client in one round, for export; see `Deployment`."""

    ticket: Ticket
    device: str
    form: str
    exact: bool
    contradicts: bool
    n_correct: int
    n_examples: int
    duration_s: float
    agreements: tuple[Agreement, ...]
    operations: tuple[LayerCount, ...] | Missing
    versions: Mapping[str, str]
    failed: str
    attacked: bool


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """One client's evaluation of a round's incoming weights, for export."""

    ticket: Ticket
    n_correct: int
    n_examples: int
    mean_loss: float | Missing


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One metric of one victim beside its baselines, for export."""

    ticket: Ticket
    attack: str
    metric: str
    value: float | Missing
    oracle: float | Missing
    noise: float | Missing
    mean_image: float | Missing
    class_mean: float | Missing


def export(run: RunFolder, *, format: Format, out: Path) -> list[Path]:
    """Write every table of a run into a folder; each has the ticket's columns to join on."""
    results = load_results(run)
    return [write_table(table, format=format, out=out) for table in _tables(results)]


def _tables(results: Results) -> list[Table]:
    arms = results.arms
    found = [arm.findings for arm in arms if isinstance(arm.findings, Findings)]
    reports = [report for arm in arms for report in arm.reports]
    phases = [(report, report.phases) for report in reports]
    around = [(r, r.surroundings.windows) for r in reports if r.surroundings is not None]
    evaluations = [
        EvaluationRow(ticket=report.ticket, **vars(report.evaluation))
        for arm in arms
        for report in arm.reports
        if report.evaluation is not None
    ]
    scores = [
        ScoreRow(
            ticket=score.ticket,
            attack=score.attack,
            metric=score.metric,
            value=score.value,
            oracle=score.oracle,
            noise=score.baselines["noise"],
            mean_image=score.baselines["mean-image"],
            class_mean=score.baselines["class-mean"],
        )
        for findings in found
        for score in findings.scores
    ]
    attempts = [attempt for findings in found for attempt in findings.attempts]
    devices = by_device(results)
    return [
        table_of("updates", AcceptedUpdate, [update for arm in arms for update in arm.updates]),
        table_of("phases", PhaseRow, list(_phase_rows(phases))),
        table_of("readings", ReadingRow, list(_reading_rows(phases))),
        table_of("windows", PhaseRow, list(_phase_rows(around))),
        table_of("window_readings", ReadingRow, list(_reading_rows(around))),
        table_of("conditions", ConditionsRow, list(_conditions_rows(arms))),
        table_of("evaluations", EvaluationRow, evaluations),
        table_of("scores", ScoreRow, scores),
        table_of("attempts", Attempt, attempts),
        table_of("devices", DeviceRow, [_device_row(one) for one in devices]),
        table_of("deployments", DeploymentRow, list(_deployment_rows(devices))),
        table_of("exposure", Exposure, [row for arm in arms for row in arm.exposures]),
        table_of("rounds", ClosedRound, [closed for arm in arms for closed in arm.rounds]),
        table_of("audit", AuditRow, results.audit),
        table_of("clients", ClientRow, results.clients),
    ]


def _device_row(one: DeviceResults) -> DeviceRow:
    part, costs = one.part, list(one.part.costs.values())
    measured, modelled = mean_measured(costs), mean_modelled(costs)
    last = part.accuracies[-1].share if part.accuracies else Missing(why="not evaluated")
    psnr = _or_missing(part.findings, lambda found: found.summary("psnr"))
    return DeviceRow(
        run_id=part.run_id,
        device=one.device.name,
        clients=one.clients,
        backends=one.backends,
        versions=one.versions,
        computing=one.computing,
        n_client_rounds=len(costs),
        accuracy=_or_missing(last, lambda share: share.n_yes / share.n),
        measured_energy_j=_or_missing(measured, lambda mean: mean.value_j),
        measured_low_j=_or_missing(measured, lambda mean: mean.low_j),
        measured_high_j=_or_missing(measured, lambda mean: mean.high_j),
        measured_by=_or_missing(measured, lambda mean: mean.source),
        measured_flags=_or_missing(measured, lambda mean: mean.marks),
        modelled_energy_j=_or_missing(modelled, lambda mean: mean.value_j),
        modelled_low_j=_or_missing(modelled, lambda mean: mean.low_j),
        modelled_high_j=_or_missing(modelled, lambda mean: mean.high_j),
        modelled_by=_or_missing(modelled, lambda mean: mean.source),
        n_victims=_or_missing(part.findings, lambda found: len(found.attempts)),
        psnr_db=_value(_or_missing(psnr, lambda summary: summary.mean)),
        psnr_noise_db=_value(_or_missing(psnr, lambda summary: summary.baselines["noise"])),
        psnr_mean_image_db=_value(
            _or_missing(psnr, lambda summary: summary.baselines["mean-image"])
        ),
        success=_or_missing(
            _or_missing(psnr, lambda summary: summary.success), lambda share: share.n_yes / share.n
        ),
    )


def _value(estimate: Estimate | Missing) -> float | Missing:
    return _or_missing(estimate, lambda found: found.value)


def _deployment_rows(devices: Sequence[DeviceResults]) -> Iterator[DeploymentRow]:
    for one in devices:
        for report, found in deployments(one.part):
            yield DeploymentRow(
                ticket=report.ticket,
                device=one.device.name,
                contradicts=bool(contradiction(found)),
                **vars(found),
            )


def _conditions_rows(arms: Sequence[ArmResults]) -> Iterator[ConditionsRow]:
    for report in (report for arm in arms for report in arm.reports):
        if (found := report.surroundings) is not None:
            yield ConditionsRow(
                ticket=report.ticket,
                attempt=report.attempt,
                start_hottest_c=found.start.hottest_c,
                end_hottest_c=found.end.hottest_c,
                start_throttling=found.start.throttling,
                end_throttling=found.end.throttling,
                start_clock_hz=found.start.clock_hz,
                end_clock_hz=found.end.clock_hz,
            )


def _phase_rows(records: _Records) -> Iterator[PhaseRow]:
    for report, position, name, record in _numbered(records):
        yield PhaseRow(
            ticket=report.ticket,
            attempt=report.attempt,
            position=position,
            phase=name,
            start_mono_ns=record.start_mono_ns,
            duration_s=record.duration_s,
            cpu_s=record.cpu_s,
            n_measured_rails=_or_missing(record.measured, len),
            modelled_energy_j=_or_missing(record.modelled, lambda energy: energy.energy_j),
            modelled_low_j=_or_missing(record.modelled, lambda energy: energy.low_j),
            modelled_high_j=_or_missing(record.modelled, lambda energy: energy.high_j),
            modelled_by=_or_missing(record.modelled, lambda energy: energy.model),
        )


def _reading_rows(records: _Records) -> Iterator[ReadingRow]:
    for report, position, name, record in _numbered(records):
        for reading in () if isinstance(record.measured, Missing) else record.measured:
            yield _reading_row(report, position, name, reading)


def _numbered(
    records: _Records,
) -> Iterator[tuple[PhaseReport, int, str, PhaseRecord | WindowRecord]]:
    for report, those in records:
        for position, record in enumerate(those):
            name = record.phase.value if isinstance(record, PhaseRecord) else record.name
            yield report, position, name, record


def _or_missing(value: T | Missing, read: Callable[[T], V]) -> V | Missing:
    return value if isinstance(value, Missing) else read(value)


def _reading_row(
    report: PhaseReport, position: int, phase: str, reading: EnergyReading
) -> ReadingRow:
    return ReadingRow(
        ticket=report.ticket,
        attempt=report.attempt,
        position=position,
        phase=phase,
        measured_energy_j=reading.energy_j,
        measured_uncertainty_j=reading.uncertainty_j,
        duration_s=reading.duration_s,
        rail=reading.rail,
        boundary=reading.boundary.value,
        method=reading.method,
        coverage=reading.coverage,
        n_samples=reading.n_samples,
        longest_gap_s=reading.longest_gap_s,
        meter=reading.meter,
        flags=reading.flags,
    )
