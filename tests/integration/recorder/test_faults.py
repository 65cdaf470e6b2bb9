"""Sensors, clocks and samplers that fail: a flag or a reason, never an exception in the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedcore.energy import Phase, WindowRecord
from fedcore.errors import MeterError
from fedcore.plan import Choice
from fedcore.types import Missing
from hardware.clocks import ClockOffsets
from hardware.meters.base import MeterInfo
from hardware.sampler_keeper import SamplerKeeper
from hardware.sampler_link import SamplerLink
from hardware.window import Recorder, measured

from .conftest import PERIOD_S, STEADY, MakeRecorder, record_of, sampler_pid, the_reading


class FakeCounter:
    """A powercap tree with one package, and a recorder that samples it at window edges only."""

    def __init__(self, root: Path, energy_uj: int) -> None:
        zone = root / "sys/class/powercap/intel-rapl:0"
        zone.mkdir(parents=True)
        (zone / "name").write_text("package-0\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
        self.file = zone / "energy_uj"
        self.file.write_text(f"{energy_uj:012}")
        meter = Choice(name="rapl", options={"root": str(root), "gain_error": 0.0})
        self.recorder = Recorder(meter=meter, period_s=1000.0)

    def set(self, energy_uj: int) -> None:
        """Change the number in place, so that nobody reads an empty file."""
        with self.file.open("r+") as file:
            file.write(f"{energy_uj:012}")


def test_a_counter_is_read_at_the_edges_of_its_window(tmp_path: Path) -> None:
    counter = FakeCounter(tmp_path, 262143000000)
    phases: list[WindowRecord] = []
    with counter.recorder as recorder:
        for energy_uj in (4_000_000, 6_500_000):
            with measured(recorder, Phase.TRAIN, phases):
                time.sleep(0.05)
                counter.set(energy_uj)
    wrapped, plain = map(the_reading, phases)
    # The edge samples lie a little outside the window, which the uncertainty covers.
    assert wrapped.energy_j == pytest.approx(4.328850, abs=wrapped.uncertainty_j)
    assert wrapped.flags == ("wrapped",)
    assert plain.energy_j == pytest.approx(2.5, abs=plain.uncertainty_j)
    assert plain.flags == ()
    assert (plain.method, plain.n_samples) == ("counter", 2)


def test_a_sensor_that_vanishes_leaves_what_it_saw(tmp_path: Path) -> None:
    counter = FakeCounter(tmp_path, 1_000_000)
    phases: list[WindowRecord] = []
    with counter.recorder as recorder:
        with measured(recorder, Phase.TRAIN, phases):
            time.sleep(0.05)
            counter.set(2_000_000)
            with measured(recorder, Phase.ENCODE, []):
                pass  # forces a good sample
            counter.file.write_text("")
            time.sleep(0.05)
        with measured(recorder, Phase.SUBMIT, phases):
            pass
    seen, over = phases
    reading = the_reading(seen)
    assert "edge" in reading.flags
    assert 0 < reading.coverage < 1
    assert reading.energy_j == pytest.approx(1.0, abs=reading.uncertainty_j)
    assert isinstance(over.measured, Missing)
    assert "package-0: invalid literal" in over.measured.why


def test_a_killed_sampler_is_a_reason_and_not_an_exception(recorder: MakeRecorder) -> None:
    meter = recorder(*STEADY)
    phases: list[WindowRecord] = []
    with measured(meter, Phase.TRAIN, phases):
        os.kill(sampler_pid(), signal.SIGKILL)
    with measured(meter, Phase.SUBMIT, phases):
        pass
    for record in phases:
        assert record.measured == Missing(why="the sampler was killed by signal 9")
        assert not isinstance(record.modelled, Missing)
        assert record.duration_s > 0


def test_a_killed_sampler_comes_back_with_a_gap(recorder: MakeRecorder) -> None:
    meter = recorder(*STEADY)
    first = sampler_pid()
    with measured(meter, "all") as window:
        time.sleep(0.2)
        with measured(meter, "part"):
            pass  # hands over what was sampled
        os.kill(first, signal.SIGKILL)
        deadline_s = time.monotonic() + 30
        back = meter.begin("back")
        while isinstance(meter.end(back).measured, Missing) and time.monotonic() < deadline_s:
            back = meter.begin("back")
            time.sleep(0.1)
        with measured(meter, "after") as after:
            time.sleep(0.3)
    assert sampler_pid() != first
    reading = the_reading(record_of(window))
    assert {"sampler-restarted", "gap"} <= set(reading.flags)
    assert 0 < reading.coverage < 1
    assert reading.energy_j == pytest.approx(10 * reading.coverage * reading.duration_s)
    reading = the_reading(record_of(after))
    assert not {"sampler-restarted", "gap"} & set(reading.flags)
    assert reading.energy_j == pytest.approx(10 * reading.duration_s)


def test_a_sampler_that_dies_and_dies_is_not_started_more_often(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("t_s,VDD_IN\n0,10\n1000,10\n")
    choice = Choice(name="csv-replay", options={"path": str(path)})
    begin_s = time.monotonic()
    keeper = SamplerKeeper(choice, period_s=PERIOD_S, restart_after_s=0.4)
    killed = set()
    while time.monotonic() < begin_s + 1.5:
        for child in psutil.Process().children():
            killed.add(child.pid)
            child.kill()
        time.sleep(0.01)
    with pytest.raises(MeterError, match="the sampler was killed by signal 9"):
        keeper.mark()
    keeper.close()
    assert 2 <= len(killed) <= 1 + (time.monotonic() - begin_s) / 0.4
    assert not psutil.Process().children()


@pytest.mark.parametrize(
    ("wall_s", "boot_s", "flag"), [(3600, 0, "clock-step"), (30, 30, "suspended")]
)
def test_what_the_clocks_did_is_a_flag(tmp_path: Path, wall_s: int, boot_s: int, flag: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("t_s,VDD_IN\n0,10\n1000,10\n")
    now = [ClockOffsets(wall_ns=0, boot_ns=0)]
    choice = Choice(name="csv-replay", options={"path": str(path)})
    with Recorder(meter=choice, clocks=lambda: now[0]) as meter:
        with measured(meter, "quiet") as quiet:
            pass
        with measured(meter, "disturbed") as disturbed:
            now[0] = ClockOffsets(wall_ns=wall_s * 10**9, boot_ns=boot_s * 10**9)
        with measured(meter, "after") as after:
            pass
    assert flag in the_reading(record_of(disturbed)).flags
    for window in (quiet, after):
        assert flag not in the_reading(record_of(window)).flags


def test_a_suspended_sampler_leaves_a_gap(recorder: MakeRecorder) -> None:
    meter = recorder(*STEADY)
    pid = sampler_pid()
    phases: list[WindowRecord] = []
    with measured(meter, Phase.TRAIN, phases):
        time.sleep(0.2)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    reading = the_reading(phases[0])
    assert "gap" in reading.flags
    assert reading.longest_gap_s > 0.5
    assert 0 < reading.coverage < 0.7
    assert reading.energy_j == pytest.approx(10 * reading.coverage * phases[0].duration_s)


def test_a_silent_sampler_does_not_hold_up_the_work_and_may_come_back(
    recorder: MakeRecorder,
) -> None:
    meter = recorder(*STEADY)
    pid = sampler_pid()
    phases: list[WindowRecord] = []
    os.kill(pid, signal.SIGSTOP)
    for _ in range(1000):  # only the first question waits, or this would take half an hour
        with measured(meter, Phase.TRAIN, phases):
            pass
    for record in phases:
        assert isinstance(record.measured, Missing)
        assert "silent" in record.measured.why
    os.kill(pid, signal.SIGCONT)
    deadline_s = time.monotonic() + 10
    while isinstance(phases[-1].measured, Missing) and time.monotonic() < deadline_s:
        with measured(meter, Phase.TRAIN, phases):
            time.sleep(0.1)
    last = phases[-1]
    reading = the_reading(last)
    assert reading.energy_j == pytest.approx(10 * reading.coverage * last.duration_s)


def test_a_sampler_that_cannot_open_its_meter_says_why(tmp_path: Path) -> None:
    missing = Choice(name="csv-replay", options={"path": str(tmp_path / "absent.csv")})
    with pytest.raises(MeterError, match=r"absent\.csv"):
        SamplerLink(missing, period_s=PERIOD_S)


def test_a_sampler_that_finds_no_sensor_says_why() -> None:
    """As "auto" does when the sensor went away after it was probed."""
    with pytest.raises(MeterError, match="unplugged"):
        SamplerLink(Choice(name="null", options={"why": "unplugged"}), period_s=PERIOD_S)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-m always looks in the working folder")
def test_a_strangers_package_in_the_working_folder_is_not_our_sampler(
    recorder: MakeRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware/__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    assert isinstance(recorder(*STEADY).meter, MeterInfo)


PARENT = """
import os, sys, time
from fedcore.plan import Choice
from hardware.window import Recorder
import psutil
meter = Choice(name="csv-replay", options={"path": sys.argv[1]})
recorder = Recorder(meter=meter, period_s=1000.0)
(sampler,) = psutil.Process().children()
heir = os.fork()  # holds the pipe open beyond its parent's end, as a forked loader would
if heir == 0:
    time.sleep(60)
    os._exit(0)
print(sampler.pid, heir, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_sampler_never_outlives_its_trainer(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("t_s,VDD_IN\n0,10\n1000,10\n")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        sampler, heir = map(int, parent.stdout.readline().split())
        assert is_running(sampler)
        parent.kill()
        parent.wait()
        deadline_s = time.monotonic() + 10
        while is_running(sampler) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        still_there = is_running(sampler)
        os.kill(heir, signal.SIGKILL)
    assert not still_there
