"""A meter that logged a whole run on a clock of its own: what it says of each of its windows.

What it says stands beside what was measured during the run, as another source with its own
boundary, and never in its place.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedcore.energy import Boundary, EnergyReading, Phase, PhaseReport
from fedcore.errors import ConfigError, MeterError, RunError, StorageError
from fedcore.layout import RunFolder
from fedcore.strict import canonical_json, parse
from fedcore.types import Missing, Ticket
from hardware.alignment import align_work
from hardware.meters.base import MeterInfo, Rail, Sample
from hardware.meters.csv_replay import PowerTrace, read_trace
from hardware.readings import read_window
from testbed.results import Results

__all__ = ["ROUND", "ExternalLog", "ExternalWindow", "attribute", "read_external", "write_external"]

ROUND = "round"
"""Name of the window from the first to the last phase of a client's round, waiting left out."""

_GAP_PERIODS = 3


@dataclass(frozen=True, kw_only=True)
class ExternalWindow:
    """One window of a client's round: a phase, or `ROUND`.

    Attributes:
        position: in the round, from 0; the round itself comes last.
    """

    ticket: Ticket
    attempt: int
    position: int
    name: str
    reading: EnergyReading | Missing


@dataclass(frozen=True, kw_only=True)
class ExternalLog:
    """A log brought onto the clock of one client, and its energies.

    Attributes:
        log: name of its file.
        sha256: of its bytes.
        begin_s: where on the log's clock the client's first work began.
        begin_error_s: half-width of the interval of that.
        correlation: of the log's power and the client's work; Missing where begin_s was given.
    """

    client_id: str
    log: str
    sha256: str
    boundary: Boundary
    begin_s: float
    begin_error_s: float
    correlation: float | Missing
    windows: tuple[ExternalWindow, ...]


def attribute(
    results: Results,
    path: Path,
    *,
    client_id: str,
    boundary: Boundary,
    gain_error: float,
    begin_s: float | None = None,
) -> ExternalLog:
    """Share a log out among the windows of one client's rounds.

    Their uncertainties hold what the log's instants cost: the energy is integrated again with the
    window earlier and later by the alignment's uncertainty, to which half a period is added: a
    meter that shows the mean of its last period is late by so much.

    Args:
        results: of the run.
        path: CSV with the columns t_s (ascending, in s) and watts of one rail.
        client_id: whose machine the meter fed.
        boundary: what lies inside the measurement.
        gain_error: half-width of the 95 % interval of the meter's scale factor, relative.
        begin_s: where on the log's clock the client's first work began; None finds it by the
            work itself.

    Raises:
        ConfigError: no such client, or it was started anew in between.
        MeterError: the log cannot be read, does not overlap the work, or does not show it.
    """
    trace = read_trace(path)
    if len(trace.power_w) != 1:
        raise ConfigError(
            f"{path}: got the columns {', '.join(trace.power_w)}, expected one; keep the rail that "
            f"is the {boundary.value}"
        )
    reports = _reports_of(results, client_id)
    edges_ns, load = _work(reports)
    place = _found(trace, edges_ns, load) if begin_s is None else _given(trace, edges_ns, begin_s)
    n_sharing = len(_on_the_machine_of(reports[0], results))
    meter = _Log(
        trace,
        boundary=boundary,
        gain_error=gain_error,
        offset_s=edges_ns[0] * 1e-9 - place.begin_s,
        flags=(f"shared({n_sharing})",) if n_sharing > 1 else (),
    )
    return ExternalLog(
        client_id=client_id,
        log=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        boundary=boundary,
        begin_s=place.begin_s,
        begin_error_s=place.error_s,
        correlation=place.correlation,
        windows=tuple(
            replace(window, reading=meter.read(start_ns, end_ns, error_s=place.error_s))
            for window, start_ns, end_ns in _windows(reports)
        ),
    )


def write_external(run: RunFolder, log: ExternalLog) -> Path:
    """Keep it beside the run; another log of that client and boundary takes its place.

    Raises:
        StorageError: the disk did not take it.
    """
    path = run.external / f"{log.client_id}-{log.boundary.value}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(canonical_json(log) + b"\n")
    except OSError as error:
        raise StorageError.of(path, error, then="share the log out again") from error
    return path


def read_external(run: RunFolder) -> list[ExternalLog]:
    """All logs of a run, by client and boundary.

    Raises:
        RunError: one cannot be read.
        ConfigError: it was written by another version.
    """
    found = []
    for path in sorted(run.external.glob("*.json")):
        try:
            table = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: not an external log ({error}); delete it") from error
        found.append(parse(ExternalLog, table, where=path.name))
    return found


def _reports_of(results: Results, client_id: str) -> list[PhaseReport]:
    """In order of time, all on one clock."""
    hosts = _hosts(results)
    reports = [
        report
        for arm in results.arms
        for report in arm.reports
        if report.ticket.client_id == client_id and any(_working(report))
    ]
    if not reports:
        raise ConfigError(
            f"client {client_id!r} reported no work in {results.folder.root} "
            f"(clients: {', '.join(results.experiment.client_ids)})"
        )
    if len({hosts.get(report.machine_card) for report in reports}) > 1:
        raise ConfigError(
            f"{client_id} was started anew during the run, and its clock with it; "
            "a log of all of it fits no single clock"
        )
    return sorted(reports, key=lambda report: report.phases[0].start_mono_ns)


def _hosts(results: Results) -> dict[str, str]:
    """The machine behind each card, a new one after each start of it; not known is none."""
    found = {row.card: row.hello.get("machine_card", {}).get("host") for row in results.clients}
    return {card: host for card, host in found.items() if isinstance(host, str)}


def _on_the_machine_of(report: PhaseReport, results: Results) -> set[str]:
    """All clients whose work the log holds."""
    hosts = _hosts(results)
    own = hosts.get(report.machine_card)
    there = {row.client_id for row in results.clients if own and hosts.get(row.card) == own}
    return there | {report.ticket.client_id}


def _working(report: PhaseReport) -> Iterator[tuple[int, int, float]]:
    """Begin and end of each phase but waiting, in ns, and the CPU seconds per second in it."""
    for record in report.phases:
        if record.phase is not Phase.IDLE and record.duration_s > 0:
            end_ns = record.start_mono_ns + round(record.duration_s * 1e9)
            yield record.start_mono_ns, end_ns, record.cpu_s / record.duration_s


def _work(reports: Sequence[PhaseReport]) -> tuple[list[int], list[float]]:
    """The load of the client over time: edges in ns, and the load between each and the next."""
    edges_ns: list[int] = []
    load: list[float] = []
    for begin_ns, end_ns, busy in sorted(span for r in reports for span in _working(r)):
        if edges_ns and begin_ns > edges_ns[-1]:
            edges_ns.append(begin_ns)
            load.append(0.0)
        edges_ns += [end_ns] if edges_ns else [begin_ns, end_ns]
        load.append(busy)
    return edges_ns, load


def _windows(reports: Sequence[PhaseReport]) -> Iterator[tuple[ExternalWindow, int, int]]:
    """Every window still without its energy, with its begin and end in ns."""
    for report in reports:
        window = functools.partial(
            ExternalWindow,
            ticket=report.ticket,
            attempt=report.attempt,
            reading=Missing(why="not read yet"),
        )
        for position, record in enumerate(report.phases):
            end_ns = record.start_mono_ns + round(record.duration_s * 1e9)
            name = record.phase.value
            yield window(position=position, name=name), record.start_mono_ns, end_ns
        spans = list(_working(report))
        begin_ns, end_ns = min(begin for begin, _, _ in spans), max(end for _, end, _ in spans)
        yield window(position=len(report.phases), name=ROUND), begin_ns, end_ns


class _Place(NamedTuple):
    """Where on a log's clock the work begins; as in `ExternalLog`."""

    begin_s: float
    error_s: float
    correlation: float | Missing


def _found(trace: PowerTrace, edges_ns: Sequence[int], load: Sequence[float]) -> _Place:
    try:
        found = align_work(trace, edges_ns, load)
    except MeterError as error:
        raise MeterError(f"{error}; say where it begins with --begin") from error
    return _Place(
        edges_ns[0] * 1e-9 - found.offset_s,
        found.uncertainty_s + _period_s(trace) / 2,
        found.correlation,
    )


def _given(trace: PowerTrace, edges_ns: Sequence[int], begin_s: float) -> _Place:
    first_s, last_s = float(trace.t_s[0]), float(trace.t_s[-1])
    end_s = begin_s + (edges_ns[-1] - edges_ns[0]) * 1e-9
    if begin_s >= last_s or end_s <= first_s:
        raise ConfigError(
            f"the log lasts from {first_s:g} to {last_s:g} s of its clock, the work would from "
            f"{begin_s:g} to {end_s:g} s; they do not overlap"
        )
    return _Place(begin_s, _period_s(trace), Missing(why="its begin was given"))


def _period_s(trace: PowerTrace) -> float:
    return float(np.median(np.diff(trace.t_s)))


class _Log:
    """A trace on CLOCK_MONOTONIC, read like a meter whose values are means of its period."""

    def __init__(
        self,
        trace: PowerTrace,
        *,
        boundary: Boundary,
        gain_error: float,
        offset_s: float,
        flags: tuple[str, ...],
    ) -> None:
        ((name, power_w),) = trace.power_w.items()
        period_s = _period_s(trace)
        rail = Rail(
            name=name,
            boundary=boundary,
            kind="power",
            resolution=float(np.min(np.diff(np.unique(power_w)), initial=float(power_w.max()))),
            gain_error=gain_error,
            max_power_w=float(power_w.max()),
            update_s=period_s,
        )
        self._info = MeterInfo(
            name="csv-log", version="1", rails=(rail,), period_s=period_s, flags=flags
        )
        self._at_ns = [round((t_s + offset_s) * 1e9) for t_s in trace.t_s.tolist()]
        self._power_w = power_w.tolist()
        self._max_gap_s = _GAP_PERIODS * period_s

    def read(self, start_ns: int, end_ns: int, *, error_s: float) -> EnergyReading | Missing:
        """The energy of a window whose place is known within an error."""
        if end_ns <= start_ns:
            return Missing(why="the window has no length")
        shift_ns = round(error_s * 1e9)
        around = [self._read(start_ns + by, end_ns + by) for by in (0, -shift_ns, shift_ns)]
        reading, *shifted = around
        if isinstance(reading, Missing):
            return reading
        moved_j = max(
            (
                abs(other.energy_j - reading.energy_j)
                for other in shifted
                if not isinstance(other, Missing)
            ),
            default=0.0,
        )
        return replace(reading, uncertainty_j=math.hypot(reading.uncertainty_j, moved_j))

    def _read(self, start_ns: int, end_ns: int) -> EnergyReading | Missing:
        gap_ns = round(self._max_gap_s * 1e9)
        first = bisect_left(self._at_ns, start_ns - gap_ns)
        last = bisect_right(self._at_ns, end_ns + gap_ns)
        found = read_window(
            self._info,
            [Sample(self._at_ns[n], (self._power_w[n],)) for n in range(first, last)],
            start_ns=start_ns,
            end_ns=end_ns,
            max_gap_s=self._max_gap_s,
        )
        return found if isinstance(found, Missing) else found[0]
