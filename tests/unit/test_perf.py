"""perf's energy events: their description is parsed, and a real kernel counter is counted."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hardware.meters import perf
from hardware.meters.base import NoSensorError
from hardware.meters.perf import Perf
from hardware.sysfs import parse_cpus

RAPL_SCALE = "2.3283064365386962890625e-10"
CPU_CLOCK = {"type": "1", "pkg": "event=0x00", "scale": "1e-9"}  # a software event: ns of one CPU

MakePmu = Callable[..., Path]


@pytest.fixture
def pmu(tmp_path: Path) -> MakePmu:
    """Describe a power PMU under a root of its own."""

    def make(
        *, type: str = "23", cpumask: str = "0", pkg: str = "event=0x02", scale: str = RAPL_SCALE
    ) -> Path:
        folder = tmp_path / "sys/bus/event_source/devices/power"
        (folder / "events").mkdir(parents=True, exist_ok=True)
        (folder / "type").write_text(f"{type}\n")
        (folder / "cpumask").write_text(f"{cpumask}\n")
        (folder / "events/energy-pkg").write_text(f"{pkg}\n")
        (folder / "events/energy-pkg.scale").write_text(f"{scale}\n")
        (folder / "events/energy-pkg.unit").write_text("Joules\n")
        return tmp_path

    return make


def test_a_real_kernel_counter_is_counted(pmu: MakePmu) -> None:
    """The description of a power PMU that points to the kernel's CPU clock counts elapsed time."""
    root = pmu(**CPU_CLOCK)
    try:
        meter = Perf(root=str(root)).open()
    except NoSensorError as error:
        pytest.skip(f"this kernel does not let us count: {error.what}")
    with meter:
        reads = []
        for _ in range(2):
            before_ns = time.monotonic_ns()
            counted_s = meter.read().values[0]
            reads.append((before_ns * 1e-9, counted_s, time.monotonic_ns() * 1e-9))
            time.sleep(0.05)
    (before_s, first, after_s), (before_again_s, second, after_again_s) = reads
    assert 0.99 * (before_again_s - after_s) <= second - first
    assert second - first <= 1.01 * (after_again_s - before_s)
    (rail,) = meter.info.rails
    assert rail.name.startswith("package-")
    assert rail.wraps_at_j is None
    assert rail.resolution == 1e-9


@pytest.fixture
def on_cpu_0() -> Iterator[None]:
    """Run on the processor that the made-up PMU counts on."""
    allowed = os.sched_getaffinity(0)
    if 0 not in allowed:
        pytest.skip("this process may not run on processor 0")
    os.sched_setaffinity(0, {0})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.mark.usefixtures("on_cpu_0")
def test_the_events_number_says_what_is_counted(pmu: MakePmu) -> None:
    """Software event 2 is page faults: every first touch of a page is one."""
    try:
        meter = Perf(root=str(pmu(type="1", pkg="event=0x02", scale="1"))).open()
    except NoSensorError as error:
        pytest.skip(f"this kernel does not let us count: {error.what}")
    n_pages = 1000
    with meter, mmap.mmap(-1, n_pages * mmap.PAGESIZE) as memory:
        before = meter.read().values[0]
        for page in range(n_pages):
            memory[page * mmap.PAGESIZE] = 1
        assert meter.read().values[0] - before >= n_pages


def test_dies_of_one_socket_are_not_added(pmu: MakePmu, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may mirror one counter, and perf counts from 0: nothing would tell."""
    root = pmu(cpumask="0,8,16")
    for cpu, socket in ((0, 0), (8, 0), (16, 1)):
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{socket}\n")
    monkeypatch.setattr(perf, "_perf_event_open", lambda *_, **__: os.open(os.devnull, os.O_RDONLY))
    with pytest.raises(NoSensorError, match="several energy-pkg counters") as caught:
        Perf(root=str(root)).open()
    assert "rapl" in caught.value.fix
    (root / "sys/bus/event_source/devices/power/cpumask").write_text("0,16\n")
    with Perf(root=str(root)).open() as meter:
        assert [rail.name for rail in meter.info.rails] == ["package-0", "package-1"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_refusal_names_the_setting_and_the_command(
    pmu: MakePmu, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, this machine refuses nothing."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(perf, "_perf_event_open", refuse)
    root = pmu()
    paranoid = root / "proc/sys/kernel/perf_event_paranoid"
    paranoid.parent.mkdir(parents=True)
    paranoid.write_text("4\n")
    with pytest.raises(NoSensorError) as caught:
        Perf(root=str(root)).open()
    assert "perf_event_paranoid is 4" in caught.value.what
    assert "sudo sysctl kernel.perf_event_paranoid=0" in caught.value.fix


def test_an_event_that_the_processor_lacks_is_refused_by_the_real_kernel(pmu: MakePmu) -> None:
    with pytest.raises(NoSensorError, match="perf_event_open of power/energy-pkg/"):
        Perf(root=str(pmu(type="999999"))).open()


@pytest.mark.parametrize(
    "wrong",
    [{"pkg": "umask=0x02"}, {"scale": "0"}, {"scale": "x"}, {"cpumask": "a"}, {"type": ""}],
)
def test_a_description_that_is_not_as_documented_is_refused(
    pmu: MakePmu, wrong: dict[str, str]
) -> None:
    with pytest.raises(NoSensorError, match="not as documented"):
        Perf(root=str(pmu(**wrong))).open()


def test_a_kernel_without_power_events_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoSensorError, match="no energy-pkg event"):
        Perf(root=str(tmp_path)).open()


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", [0]), ("0,18", [0, 18]), ("0-3,8", [0, 1, 2, 3, 8])]
)
def test_kernel_lists_of_processors(text: str, cpus: list[int]) -> None:
    assert parse_cpus(text) == cpus
