"""What each fault of a sensor, a clock or the sampler leaves in a reading.

Only the device is faked: a meter, registered as a stranger's package would be, that reads a file
in which this module writes joules, nonsense or the name of an error of the kernel. The sampler is
the real process, which is stopped and killed in earnest. The clocks cannot be set here: the
recorder is handed others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from fedcore.plan import Choice
from fedcore.types import Missing
from hardware.clocks import ClockOffsets, read_offsets
from hardware.registry import METERS
from hardware.window import Recorder, Window, measured

__all__ = ["rows"]

PERIOD_S = 0.05
STEP_S = 0.25
WRAP_J = 1000.0
DEVICE = f"""
import contextlib, errno, os, time
from dataclasses import dataclass
from pathlib import Path
from fedcore.energy import Boundary
from hardware.meters.base import Meter, MeterInfo, OpenRails, Rail

@dataclass(frozen=True, kw_only=True)
class Device(Meter):
    path: str

    def open(self, *, now_ns=time.monotonic_ns):
        rail = Rail(
            name="rail", boundary=Boundary.BOARD_DC_INPUT, kind="counter", resolution=1e-3,
            gain_error=0.0, max_power_w=1000.0, update_s=0.05, wraps_at_j={WRAP_J},
        )
        info = MeterInfo(name="device", version="1", rails=(rail,), period_s=0.0)
        return OpenRails(info, [self._read], opened=contextlib.ExitStack(), now_ns=now_ns)

    def _read(self):
        text = Path(self.path).read_text()
        if text in dir(errno):
            number = getattr(errno, text)
            raise OSError(number, os.strerror(number))
        return float(text)
"""

Provoke = Callable[[Path], None]


def rows() -> Iterator[str]:
    """One line per fault: what was expected, and what came."""
    yield f"{'fault':<24}{'expected':<20}{'joules':>9}{'covered':>9}  flags, or why nothing"
    with tempfile.TemporaryDirectory() as name, _registered(Path(name)):
        folder = Path(name)
        for fault, (expected, provoke) in FAULTS.items():
            yield _row(fault, expected, _window(folder, provoke).record)
        for fault, (expected, clocks) in CLOCKS.items():
            yield _row(fault, expected, _window(folder, lambda _: None, clocks).record)


def _window(
    folder: Path, provoke: Provoke, moved: Callable[[ClockOffsets], ClockOffsets] | None = None
) -> Window:
    """A window in which a steady 4 J per step are disturbed in the middle."""
    path = folder / "joules"
    _write(path, "990")
    clocks = [read_offsets()]
    choice = Choice(name="device", options={"path": str(path)})
    with Recorder(meter=choice, period_s=PERIOD_S, clocks=lambda: clocks[0]) as recorder:
        with measured(recorder, "work") as window:
            time.sleep(STEP_S)
            _write(path, "994")
            time.sleep(STEP_S)
            with measured(recorder, "part"):
                pass  # hands over what was sampled so far
            provoke(path)
            if moved:
                clocks[0] = moved(clocks[0])
        return window


def _values(*texts: str) -> Provoke:
    """Write one text after the other."""

    def provoke(path: Path) -> None:
        for text in texts:
            _write(path, text)
            time.sleep(STEP_S)

    return provoke


def _vanish(path: Path) -> None:
    path.unlink()
    time.sleep(STEP_S)


def _wrap_unseen(path: Path) -> None:
    """While the sampler stands still the counter could have gone round more than once."""
    (sampler,) = psutil.Process().children()
    os.kill(sampler.pid, signal.SIGSTOP)
    time.sleep(2.5)
    _write(path, "998")
    os.kill(sampler.pid, signal.SIGCONT)
    time.sleep(STEP_S)


def _stop(path: Path) -> None:
    (sampler,) = psutil.Process().children()
    os.kill(sampler.pid, signal.SIGSTOP)
    time.sleep(2 * STEP_S)
    _write(path, "998")
    os.kill(sampler.pid, signal.SIGCONT)
    time.sleep(STEP_S)


def _silence(_: Path) -> None:
    (sampler,) = psutil.Process().children()
    os.kill(sampler.pid, signal.SIGSTOP)


def _kill(path: Path) -> None:
    (sampler,) = psutil.Process().children()
    sampler.kill()
    time.sleep(4.0)  # two until it is started again, and then it imports
    _write(path, "998")
    time.sleep(STEP_S)


FAULTS: dict[str, tuple[str, Provoke]] = {
    "none": ("", _values("998")),
    "wrap": ("wrapped", _values("998", "2")),
    "double wrap": ("double-wrap", _wrap_unseen),
    "counter reset": ("counter-reset", _values("600", "604")),
    "EACCES": ("read-failed", _values("EACCES", "998")),
    "ENODATA": ("read-failed", _values("ENODATA", "998")),
    "EIO": ("read-failed", _values("EIO", "998")),
    "garbage": ("read-failed", _values("12.3.4", "998")),
    "sensor vanishes": ("read-failed", _vanish),
    "sampler suspended": ("gap", _stop),
    "sampler silent": ("silent", _silence),
    "sampler killed": ("sampler-restarted", _kill),
}

S_IN_NS = 10**9
CLOCKS: dict[str, tuple[str, Callable[[ClockOffsets], ClockOffsets]]] = {
    "wall clock set back": ("clock-step", lambda c: c._replace(wall_ns=c.wall_ns - S_IN_NS)),
    "machine suspended": (
        "suspended",
        lambda c: ClockOffsets(c.wall_ns + 60 * S_IN_NS, c.boot_ns + 60 * S_IN_NS),
    ),
}


@contextlib.contextmanager
def _registered(folder: Path) -> Iterator[None]:
    """Install the device as a package's plugin, for this process and the samplers it starts."""
    facts = folder / "device-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: device\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[leakwatt.meter]\ndevice = faulty_device:Device\n")
    (folder / "faulty_device.py").write_text(DEVICE)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(folder), before) if p)
    sys.path.insert(0, str(folder))
    if "device" not in METERS.names():  # entry points are read once, perhaps before this one
        METERS.add("device", "faulty_device:Device")
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _write(path: Path, text: str) -> None:
    """Replace the file at once, so that nobody reads half of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def _row(fault: str, expected: str, record: object) -> str:
    measured_j = getattr(record, "measured", Missing(why="no record"))
    if isinstance(measured_j, Missing):
        joules, covered, says = "-", "-", measured_j.why
    else:
        (reading,) = measured_j
        joules, covered = f"{reading.energy_j:.3f}", f"{100 * reading.coverage:.0f} %"
        says = ", ".join(reading.flags)
    is_met = expected in says if expected else not says
    return f"{fault:<24}{expected or '(no flag)':<20}{joules:>9}{covered:>9}  {says}" + (
        "" if is_met else "   NOT FLAGGED"
    )


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)
