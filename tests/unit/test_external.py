"""A plug's log of a whole run, shared out among the windows of one client."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.energy import Boundary, EnergyReading, Phase, PhaseRecord, PhaseReport
from fedcore.errors import ConfigError, MeterError
from fedcore.layout import RunFolder
from fedcore.seeds import stream
from fedcore.types import Missing, Ticket
from testbed.external import ROUND, ExternalLog, attribute, read_external, write_external
from testbed.report.external import external_rows

GONE = Missing(why="no sensor")
N_ROUNDS = 8
BEGIN_S = 40_000.0  # of the first round on the client's clock
LOG_LAG_S = 39_930.0  # the log's clock began that much later
IDLE_W, WORK_W, SEND_W = 3.0, 8.0, 4.0


def phase(name: Phase, begin_s: float, end_s: float, busy: float) -> PhaseRecord:
    return PhaseRecord(
        phase=name,
        start_mono_ns=round(begin_s * 1e9),
        duration_s=end_s - begin_s,
        cpu_s=busy * (end_s - begin_s),
        measured=GONE,
        modelled=GONE,
    )


def a_run() -> tuple[PhaseReport, ...]:
    """Rounds of uneven length: waiting, then training at 8 W, then sending at 4 W."""
    rng, now_s, reports = stream(3, "run"), BEGIN_S, []
    for number in range(N_ROUNDS):
        wait_s, train_s = float(rng.uniform(3, 9)), float(rng.uniform(6, 12))
        begin_s, sent_s = now_s + wait_s, now_s + wait_s + train_s + 5
        phases = (
            phase(Phase.IDLE, now_s, begin_s, 0.0),
            phase(Phase.TRAIN, begin_s, begin_s + train_s, 1.0),
            phase(Phase.SUBMIT, begin_s + train_s, sent_s, 0.2),
        )
        now_s = sent_s
        reports.append(
            PhaseReport(
                ticket=Ticket(run_id="r", round=number, client_id="pi-1"),
                attempt=0,
                phases=phases,
                evaluation=None,
                clock_offset_s=0.0,
                clock_uncertainty_s=0.0,
                machine_card="one",
            )
        )
    return tuple(reports)


@dataclass(frozen=True)
class Named:
    name: str = "snn"


@dataclass(frozen=True)
class ArmOf:
    """As much of `ArmResults` as is looked at."""

    reports: tuple[PhaseReport, ...] = field(default_factory=a_run)
    arm: Named = Named()
    run_id: str = "r"


@dataclass(frozen=True)
class Row:
    client_id: str
    card: str
    hello: dict[str, Any]


@dataclass(frozen=True)
class Clients:
    client_ids: tuple[str, ...] = ("pi-1", "pi-2")


@dataclass(frozen=True)
class Run:
    """As much of `Results` as is looked at."""

    folder: RunFolder
    arms: tuple[ArmOf, ...] = (ArmOf(),)
    clients: tuple[Row, ...] = (Row("pi-1", "one", {"machine_card": {"host": "aaaa"}}),)
    experiment: Clients = Clients()


def power_w(mono_s: np.ndarray) -> np.ndarray:
    drawn = np.full(mono_s.size, IDLE_W)
    for record in (record for report in a_run() for record in report.phases):
        begin_s = record.start_mono_ns * 1e-9
        inside = (mono_s >= begin_s) & (mono_s < begin_s + record.duration_s)
        drawn[inside] = {Phase.IDLE: IDLE_W, Phase.TRAIN: WORK_W}.get(record.phase, SEND_W)
    return drawn


def a_log(path: Path, *, lasts_s: float = 300.0, from_s: float = 0.0) -> Path:
    """The means of half seconds, rounded to centiwatts, on the log's own clock."""
    t_s = np.arange(from_s, from_s + lasts_s, 0.5)
    fine_s = t_s[:, None] + np.linspace(-0.5, 0, 50, endpoint=False)[None]
    mean_w = power_w(fine_s.ravel() + LOG_LAG_S).reshape(fine_s.shape).mean(axis=1)
    rows = "".join(f"{t:.1f},{w:.2f}\n" for t, w in zip(t_s, mean_w, strict=True))
    path.write_text(f"t_s,um25c\n{rows}")
    return path


def share_out(run: Run, log: Path, **options: Any) -> ExternalLog:
    options = {"client_id": "pi-1", "boundary": Boundary.BOARD_DC_INPUT, **options}
    return attribute(run, log, gain_error=0.01, **options)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    return Run(RunFolder(tmp_path / "run"))


def readings(found: ExternalLog, name: str) -> list[EnergyReading]:
    chosen = [window.reading for window in found.windows if window.name == name]
    assert not any(isinstance(reading, Missing) for reading in chosen)
    return [reading for reading in chosen if isinstance(reading, EnergyReading)]


@pytest.mark.parametrize("begin_s", [None, "said"])
def test_every_window_gets_its_joules(run: Run, tmp_path: Path, begin_s: str | None) -> None:
    first_s = a_run()[0].phases[1].start_mono_ns * 1e-9 - LOG_LAG_S
    given = {"begin_s": first_s} if begin_s else {}
    found = share_out(run, a_log(tmp_path / "um25c.csv"), **given)
    assert abs(found.begin_s - first_s) <= found.begin_error_s <= 0.6
    for name, power in (("train", WORK_W), ("submit", SEND_W), ("idle", IDLE_W)):
        for reading in readings(found, name):
            assert abs(reading.energy_j - power * reading.duration_s) <= reading.uncertainty_j
            assert reading.uncertainty_j < 0.5 * reading.energy_j + 3
            assert (reading.boundary, reading.coverage) == (Boundary.BOARD_DC_INPUT, 1.0)
    for whole, train, sent in zip(
        *(readings(found, name) for name in (ROUND, "train", "submit")), strict=True
    ):
        assert whole.energy_j == pytest.approx(train.energy_j + sent.energy_j, abs=1e-6)


def test_it_is_kept_beside_the_run_and_read_back(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("scipy")  # intervals of means
    found = share_out(run, a_log(tmp_path / "um25c.csv"))
    assert write_external(run.folder, found) == run.folder.external / "pi-1-board-dc-input.json"
    assert read_external(run.folder) == [found]
    rows = external_rows([found], run.arms)
    assert [row.window for row in rows] == ["idle", "train", "submit", ROUND]
    assert all(row.n == "8 of 8" and "measured" in row.energy for row in rows)
    assert rows[0].source.startswith("um25c.csv, board-dc-input, placed by the work")


def test_a_log_of_something_else_is_refused(run: Run, tmp_path: Path) -> None:
    noise = stream(1, "noise").normal(5, 1, 600)
    log = tmp_path / "other.csv"
    log.write_text("t_s,w\n" + "".join(f"{n / 2},{w}\n" for n, w in enumerate(noise)))
    with pytest.raises(MeterError, match=r"the trace does not show the work .*--begin"):
        share_out(run, log)


def test_a_log_that_does_not_hold_the_run_says_what_it_holds(run: Run, tmp_path: Path) -> None:
    log = a_log(tmp_path / "short.csv", lasts_s=50)
    with pytest.raises(MeterError, match=r"the trace lasts 49.5 s, the work 1\d\d s; .*--begin"):
        share_out(run, log)
    with pytest.raises(ConfigError, match=r"from 0 to 49.5 s .* from 70 to 2\d\d"):
        share_out(run, log, begin_s=70.0)
    part = share_out(run, a_log(tmp_path / "half.csv", lasts_s=150), begin_s=75.0)
    missing = [w for w in part.windows if isinstance(w.reading, Missing)]
    assert 0 < len(missing) < len(part.windows)


def test_whose_meter_it_was_is_checked(run: Run, tmp_path: Path) -> None:
    log = a_log(tmp_path / "um25c.csv")
    with pytest.raises(ConfigError, match=r"'pi-9' reported no work .*pi-1, pi-2"):
        share_out(run, log, client_id="pi-9")
    there = Row("pi-2", "two", {"machine_card": {"host": "aaaa"}})
    both = Run(run.folder, clients=(*run.clients, there))
    assert all("shared(2)" in r.flags for r in readings(share_out(both, log), "train"))
    log.write_text("t_s,total,part\n0,2,1\n1,2,1\n")
    with pytest.raises(ConfigError, match="total, part, expected one"):
        share_out(run, log)
