"""The processor's energy counters through perf_event_open(2): 64 bits wide, they never wrap.

The kernel describes the events under /sys/bus/event_source/devices/power. Reading them needs no
readable powercap file, but the right to observe the whole system.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import math
import os
import platform
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedcore.energy import Boundary
from hardware.meters.base import (
    Clock,
    MeterInfo,
    NoSensorError,
    OpenMeter,
    OpenRails,
    Rail,
    Sensor,
    require_fraction,
)
from hardware.meters.rapl import GAIN_ERROR, MAX_POWER_W, UPDATE_S
from hardware.sysfs import parse_cpus, read_line

__all__ = ["Perf"]

_PMU = Path("sys/bus/event_source/devices/power")
_PARANOID = Path("proc/sys/kernel/perf_event_paranoid")
_EVENTS = {"energy-pkg": "package", "energy-ram": "dram"}  # disjoint; the others overlap these
_SYSCALL = {"x86_64": 298, "i386": 336, "i686": 336}  # the power PMU exists on x86 only
_ATTR_SIZE = 64  # PERF_ATTR_SIZE_VER0
_COUNT_SIZE = 8
_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC
_ALL_PROCESSES = -1
_NO_GROUP = -1


@dataclass(frozen=True, kw_only=True)
class Perf(Sensor):
    """Energy of every socket, and of its DRAM where there is an event for it.

    Attributes:
        gain_error: half-width of the 95 % interval of the scale factor, relative.
    """

    gain_error: float = GAIN_ERROR

    def __post_init__(self) -> None:
        require_fraction(self.gain_error, name="gain_error")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Start one system-wide counter per event and socket.

        Raises:
            NoSensorError: the kernel has no power events, does not let us count them, or has
                several per socket.
        """
        root = Path(self.root)
        kind, cpus, events = _describe(root / _PMU)
        sockets = [_socket_of(cpu, root) for cpu in cpus]
        if len(set(sockets)) < len(sockets):
            raise NoSensorError(
                f"one socket has several energy-pkg counters (cpumask {cpus}, sockets {sockets}): "
                "dies that may each show the same energy",
                fix="use the rapl meter, which tells such mirrors apart",
            )
        rails, readers = [], []
        with contextlib.ExitStack() as opened:
            for event in events:
                for cpu, socket in zip(cpus, sockets, strict=True):
                    name = f"{event.rail}-{socket}"
                    try:
                        fd = _perf_event_open(kind, event.config, cpu=cpu)
                    except OSError as error:
                        raise _refusal(error, event, root) from error
                    opened.callback(os.close, fd)
                    rails.append(
                        Rail(
                            name=name,
                            boundary=Boundary.CPU_PACKAGE,
                            kind="counter",
                            resolution=event.joules_per_count,
                            gain_error=self.gain_error,
                            max_power_w=MAX_POWER_W,
                            update_s=UPDATE_S,
                        )
                    )
                    readers.append(functools.partial(_read_joules, fd, event.joules_per_count))
            info = MeterInfo(
                name="perf",
                version="1",
                rails=tuple(rails),
                period_s=UPDATE_S,
            )
            return OpenRails(info, readers, opened=opened.pop_all(), now_ns=now_ns)


class _Event(NamedTuple):
    name: str
    config: int
    joules_per_count: float
    rail: str


def _describe(pmu: Path) -> tuple[int, list[int], list[_Event]]:
    """Type of the PMU, one processor per socket, and its events, as the kernel states them."""
    if not (pmu / "events" / "energy-pkg").exists():
        raise NoSensorError(
            f"no energy-pkg event in {pmu}",
            fix="on x86 hardware run `sudo modprobe rapl`; a virtual machine has no such events",
        )
    try:
        kind = int(read_line(pmu / "type"))
        cpus = parse_cpus(read_line(pmu / "cpumask"))
        events = [
            _read_event(pmu / "events" / name, rail)
            for name, rail in _EVENTS.items()
            if (pmu / "events" / name).exists()
        ]
    except (OSError, ValueError) as error:
        raise NoSensorError(
            f"{pmu} is not as documented: {error}", fix="use the rapl meter"
        ) from error
    return kind, cpus, events


def _read_event(file: Path, rail: str) -> _Event:
    field, _, config = read_line(file).partition("=")
    unit = read_line(file.with_name(f"{file.name}.unit"))
    if field != "event" or unit != "Joules":
        raise ValueError(f"{file.name} is {field}={config} in {unit}, expected event=N in Joules")
    scale = float(read_line(file.with_name(f"{file.name}.scale")))
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"{file.name}.scale is {scale}, expected J per count")
    return _Event(file.name, int(config, 0), scale, rail)


def _socket_of(cpu: int, root: Path) -> int:
    """Number of the socket, as powercap names it; the processor's where the kernel says nothing."""
    try:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        return int(read_line(topology / "physical_package_id"))
    except (OSError, ValueError):
        return cpu


def _perf_event_open(kind: int, config: int, *, cpu: int) -> int:
    """Count one event of one processor for all processes, from now on; return the descriptor."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"no power events on {platform.machine()}")
    # type, size, config, then sample_period, sample_type, read_format and flags, all 0: count.
    attr = struct.pack("=IIQQQQQ", kind, _ATTR_SIZE, config, 0, 0, 0, 0).ljust(_ATTR_SIZE, b"\0")
    fd = ctypes.CDLL(None, use_errno=True).syscall(
        ctypes.c_long(number),
        ctypes.create_string_buffer(attr, _ATTR_SIZE),
        ctypes.c_int(_ALL_PROCESSES),
        ctypes.c_int(cpu),
        ctypes.c_int(_NO_GROUP),
        ctypes.c_ulong(_CLOEXEC),
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(fd)


def _read_joules(fd: int, joules_per_count: float) -> float:
    data = os.read(fd, _COUNT_SIZE)
    if len(data) != _COUNT_SIZE:
        raise ValueError("the kernel gave no count")
    return int.from_bytes(data, sys.byteorder) * joules_per_count


def _refusal(error: OSError, event: _Event, root: Path) -> NoSensorError:
    what = f"perf_event_open of power/{event.name}/: {error.strerror}"
    if error.errno not in (errno.EACCES, errno.EPERM):
        return NoSensorError(what, fix="use the rapl meter")
    with contextlib.suppress(OSError):
        what += f" (perf_event_paranoid is {read_line(root / _PARANOID)})"
    return NoSensorError(
        what,
        fix="run `sudo sysctl kernel.perf_event_paranoid=0` (lasts until reboot), or in a "
        "container add --cap-add PERFMON and a seccomp profile that allows perf_event_open",
    )
