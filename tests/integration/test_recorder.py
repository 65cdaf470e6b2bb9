"""Windows over a real sampler process: exact where they can be, missing with a reason where not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fedcore.energy import EnergyReading, Phase, WindowRecord, net_energy
from fedcore.errors import ConfigError, MeterError
from fedcore.plan import Choice
from fedcore.types import Missing
from hardware.clocks import ClockOffsets
from hardware.meters.base import MeterInfo
from hardware.modelled import load_energy_model
from hardware.sampler_keeper import SamplerKeeper
from hardware.sampler_link import SamplerLink
from hardware.window import Recorder, Window, measured

PERIOD_S = 0.1  # a gap is three periods: long enough for a busy machine to keep up

MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[MakeRecorder]:
    """Make a recorder that replays a trace given as (t_s, W) points; closed at the end."""
    made: list[Recorder] = []

    def make(*points: tuple[float, float], shared_by: int = 1, start_mono_ns: int = 0) -> Recorder:
        path = tmp_path / f"trace-{len(made)}.csv"
        path.write_text("t_s,VDD_IN\n" + "".join(f"{t},{w}\n" for t, w in points))
        options = {"path": str(path), "start_mono_ns": start_mono_ns}
        made.append(
            Recorder(
                meter=Choice(name="csv-replay", options=options),
                period_s=PERIOD_S,
                shared_by=shared_by,
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def the_reading(record: WindowRecord) -> EnergyReading:
    assert not isinstance(record.measured, Missing), record.measured
    (reading,) = record.measured
    return reading


def record_of(window: Window) -> WindowRecord:
    assert window.record is not None
    return window.record


def sampler_pid() -> int:
    (child,) = psutil.Process().children()
    return child.pid


STEADY = ((0.0, 10.0), (1000.0, 10.0))


def test_a_window_over_a_ramp_is_exact(recorder: MakeRecorder) -> None:
    """Trapezoids are exact on a line, wherever the jittered samples fall."""
    start_ns = time.monotonic_ns()
    meter = recorder((0.0, 5.0), (1000.0, 2005.0), start_mono_ns=start_ns)
    phases: list[WindowRecord] = []
    with measured(meter, Phase.TRAIN, phases):
        time.sleep(0.5)
    (record,) = phases
    reading = the_reading(record)
    begin_s = (record.start_mono_ns - start_ns) * 1e-9
    middle_w = 5 + 2 * (begin_s + record.duration_s / 2)
    assert reading.energy_j == pytest.approx(middle_w * record.duration_s, rel=1e-6)
    assert reading.coverage == 1
    assert reading.flags == ("replayed",)  # and nothing else: it was not measured now
    assert reading.n_samples > 2  # more than its edges
    assert reading.method == "integrated"
    assert reading.meter == "csv-replay 1"
    assert reading.duration_s == record.duration_s >= 0.5


def test_phases_nest_in_their_round(recorder: MakeRecorder) -> None:
    """At a steady 10 W, round minus phases is 10 W times what no phase covers: little."""
    meter = recorder(*STEADY)
    phases: list[WindowRecord] = []
    around: list[WindowRecord] = []
    with measured(meter, Phase.IDLE, around):
        for phase in (Phase.ENCODE, Phase.TRAIN, Phase.DEFEND):
            with measured(meter, phase, phases):
                time.sleep(0.05)
    round_j = the_reading(around[0]).energy_j
    phases_j = sum(the_reading(record).energy_j for record in phases)
    other_s = around[0].duration_s - sum(record.duration_s for record in phases)
    assert round_j - phases_j == pytest.approx(10 * other_s, abs=1e-6)
    assert other_s > 0
    starts = [record.start_mono_ns for record in (*around, *phases)]
    assert starts == sorted(starts)
    sampled = [the_reading(record).n_samples for record in phases]
    assert the_reading(around[0]).n_samples > max(sampled)


def test_windows_of_several_threads_overlap(recorder: MakeRecorder) -> None:
    meter = recorder(*STEADY, shared_by=3)
    phases: list[WindowRecord] = []

    def work(delay_s: float) -> None:
        for _ in range(5):
            with measured(meter, Phase.TRAIN, phases):
                time.sleep(delay_s)

    threads = [threading.Thread(target=work, args=(0.01 * n,)) for n in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(phases) == 15
    for record in phases:
        reading = the_reading(record)
        assert reading.energy_j == pytest.approx(10 * record.duration_s)
        assert "shared(3)" in reading.flags


def test_a_window_ends_with_its_record_even_when_the_work_fails(recorder: MakeRecorder) -> None:
    meter = recorder(*STEADY)
    phases: list[WindowRecord] = []
    with pytest.raises(ZeroDivisionError), measured(meter, Phase.TRAIN, phases):
        _ = 1 / 0
    assert the_reading(phases[0]).energy_j > 0


def test_a_window_of_any_name_keeps_its_record(recorder: MakeRecorder) -> None:
    meter = recorder(*STEADY)
    with measured(meter, "epoch 3") as window:
        assert window.record is None
        time.sleep(0.05)
    record = record_of(window)
    assert record.name == "epoch 3"
    assert the_reading(record).energy_j == pytest.approx(10 * record.duration_s)
    with pytest.raises(MeterError, match="'epoch 3' is no open window"):
        meter.end(window)


def test_a_decorated_function_is_measured_each_time(recorder: MakeRecorder) -> None:
    meter = recorder(*STEADY)
    records: list[WindowRecord] = []

    @measured(meter, "halve", records)
    def halve(depth: int) -> int:
        """Call itself: windows of one function nest."""
        return 0 if depth == 0 else halve(depth // 2) + 1

    assert halve(4) == 3
    assert halve.__name__ == "halve"
    assert [record.name for record in records] == ["halve"] * 4
    starts = [record.start_mono_ns for record in records]
    assert starts == sorted(starts, reverse=True)  # the innermost ends first
    assert all(the_reading(record).energy_j > 0 for record in records)


def test_idle_power_before_and_after(recorder: MakeRecorder) -> None:
    """Where idle power rises by 1 W/s, the mean of both baselines is what lies between."""
    meter = recorder((0.0, 5.0), (1000.0, 1005.0))
    before = meter.baseline(0.3)
    with measured(meter, "wait") as window:
        time.sleep(0.3)
    after = meter.baseline(0.3)
    reading = the_reading(record_of(window))
    net = net_energy(reading, before=before, after=after)
    assert not isinstance(before.rails, Missing)
    assert before.duration_s >= 0.3
    assert before.rails[0].power_w == pytest.approx(5.2, abs=0.5)
    assert net.energy_j == pytest.approx(0, abs=net.uncertainty_j)
    assert net.uncertainty_j > reading.uncertainty_j
    meter.close()
    assert meter.baseline(0.0).rails == Missing(why="the recorder is closed")


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


def test_a_closed_recorder_says_so(recorder: MakeRecorder) -> None:
    meter = recorder(*STEADY)
    pid = sampler_pid()
    meter.close()
    assert not psutil.pid_exists(pid)
    phases: list[WindowRecord] = []
    with measured(meter, Phase.IDLE, phases):
        pass
    assert phases[0].measured == Missing(why="the recorder is closed")


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


def test_this_machine_without_a_sensor_says_so() -> None:
    with Recorder(shared_by=4) as recorder:
        if isinstance(recorder.meter, MeterInfo):
            pytest.skip(f"this machine has a sensor: {recorder.meter.source}")
        phases: list[WindowRecord] = []
        with measured(recorder, Phase.TRAIN, phases):
            sum(range(200_000))
        assert not psutil.Process().children()  # nothing to sample, no process
    (record,) = phases
    assert isinstance(record.measured, Missing)
    assert record.measured.why.startswith("no sensor reads here (rapl: ")
    assert "perf: " in record.measured.why
    assert not isinstance(record.modelled, Missing)
    assert record.cpu_s > 0
    assert record.modelled.low_j < record.modelled.energy_j < record.modelled.high_j


def test_cpu_time_includes_children_that_have_ended() -> None:
    phases: list[WindowRecord] = []
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    with Recorder(meter=Choice(name="null"), energy_model="raspberry-pi-4b") as recorder:
        with measured(recorder, Phase.TRAIN, phases):
            subprocess.run([sys.executable, "-c", burn], check=True)
        with measured(recorder, Phase.IDLE, phases):
            time.sleep(0.05)
    assert phases[0].cpu_s >= 0.2
    assert phases[1].cpu_s < phases[0].cpu_s
    expected = load_energy_model("raspberry-pi-4b").estimate(
        cpu_s=phases[0].cpu_s, duration_s=phases[0].duration_s
    )
    assert phases[0].modelled == expected


def test_names_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rapl'"):
        Recorder(meter=Choice(name="rapll"))
    with pytest.raises(ConfigError, match="unknown key"):
        Recorder(meter=Choice(name="null", options={"wy": "x"}))
    with pytest.raises(ConfigError, match="did you mean 'raspberry-pi-5'"):
        Recorder(energy_model="raspberrypi-5")


def test_windows_one_after_the_other_share_their_edge(recorder: MakeRecorder) -> None:
    """So that little of a round lies in no window, and still none is open at its begin."""
    meter, records = recorder(*STEADY), []
    for _ in range(20):
        with measured(meter, "step", records):
            time.sleep(0.004)
    for record in records:
        (reading,) = record.measured
        assert reading.coverage == 1
        assert "edge" not in reading.flags
    ends_ns = [r.start_mono_ns + r.duration_s * 1e9 for r in records]
    gaps_ms = [(r.start_mono_ns - end) * 1e-6 for r, end in zip(records[1:], ends_ns, strict=False)]
    assert sorted(gaps_ms)[len(gaps_ms) // 2] < 2
