"""Windows over a real sampler process: exact where they can be, nested, named, decorated."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import psutil
import pytest

from fedcore.energy import Phase, WindowRecord, net_energy
from fedcore.errors import ConfigError, MeterError
from fedcore.plan import Choice
from fedcore.types import Missing
from hardware.meters.base import MeterInfo
from hardware.modelled import load_energy_model
from hardware.window import Recorder, measured

from .conftest import STEADY, MakeRecorder, record_of, sampler_pid, the_reading


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


BURSTS = tuple((0.05 * n, 3.0 + 4.0 * (n % 16 < 7)) for n in range(400))


def test_a_round_over_bursts_is_its_phases_within_the_stated_uncertainties(
    recorder: MakeRecorder,
) -> None:
    """The run's window, a round's and three phases' at once; other threads have their own."""
    meter = recorder(*BURSTS)
    phases: list[WindowRecord] = []
    around: list[WindowRecord] = []
    beside: list[WindowRecord] = []

    def aside() -> None:
        with measured(meter, "aside", beside):
            time.sleep(0.3)

    thread = threading.Thread(target=aside)
    with measured(meter, "run", around), measured(meter, "round", around):
        thread.start()
        for phase in (Phase.ENCODE, Phase.TRAIN, Phase.SUBMIT):
            with measured(meter, phase, phases):
                time.sleep(0.4)
        thread.join()
    whole, run = (the_reading(record) for record in around)
    parts = [the_reading(record) for record in phases]
    missed_j = abs(whole.energy_j - sum(part.energy_j for part in parts))
    other_s = whole.duration_s - sum(part.duration_s for part in parts)
    stated_j = whole.uncertainty_j + sum(part.uncertainty_j for part in parts)
    assert missed_j <= stated_j + 7.0 * other_s
    assert run.duration_s >= whole.duration_s
    assert [record.name for record in beside] == ["aside"]


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


def test_a_closed_recorder_says_so(recorder: MakeRecorder) -> None:
    meter = recorder(*STEADY)
    pid = sampler_pid()
    meter.close()
    assert not psutil.pid_exists(pid)
    phases: list[WindowRecord] = []
    with measured(meter, Phase.IDLE, phases):
        pass
    assert phases[0].measured == Missing(why="the recorder is closed")


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
