"""RAPL energy counters of Intel and AMD processors through the kernel's powercap tree.

Domains overlap: `core` and `uncore` lie inside `package`, `package` lies inside `psys`. Only
disjoint ones are read together: packages with their DRAM, or psys alone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

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
from hardware.sysfs import HeldFile, read_line

__all__ = ["GAIN_ERROR", "MAX_POWER_W", "UPDATE_S", "Rapl"]

GAIN_ERROR = 0.05
"""No vendor states RAPL's accuracy; ours after Hackenberg et al. 2015 (10.1109/IPDPSW.2015.70)."""

MAX_POWER_W = 1000.0
"""Above what one socket can draw; only tells a wrapped counter from one that was reset."""

UPDATE_S = 1e-3
"""The counters advance about once per millisecond."""

_POWERCAP = Path("sys/class/powercap")
_ZONE = re.compile(r"(?P<provider>intel-rapl[a-z-]*):(?P<package>\d+)(:\d+)?")
_COARSEST_STEP_J = 2.0**-14  # the counter's unit on most parts, 61 uJ
_COUNTER_BITS = 32

_CHMOD = (
    "run `sudo chmod a+r /sys/class/powercap/*/energy_uj` (lasts until reboot; for good, put "
    'SUBSYSTEM=="powercap", RUN+="/bin/chmod a+r /sys%p/energy_uj" '
    "into /etc/udev/rules.d/60-rapl.rules)"
)
_NO_ZONE = (
    "on x86 hardware run `sudo modprobe intel_rapl_msr` (for AMD too); a virtual machine has no "
    "counters; in a container mount the host's tree (-v /sys:/host/sys:ro) and give the meter "
    "root=/host"
)


@dataclass(frozen=True, kw_only=True)
class Rapl(Sensor):
    """Energy counters of the processor.

    Attributes:
        domain: "package" (every socket, and its DRAM where there is a counter) or "psys" (the
            whole platform, where the vendor wired it).
        gain_error: half-width of the 95 % interval of the scale factor, relative.
    """

    domain: Literal["package", "psys"] = "package"
    gain_error: float = GAIN_ERROR

    def __post_init__(self) -> None:
        require_fraction(self.gain_error, name="gain_error")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Hold every counter of the domain open.

        Raises:
            NoSensorError: there is no such counter, or it may not be read; with the exact fix.
        """
        folder = Path(self.root) / _POWERCAP
        zones = [zone for zone in _zones(folder) if zone.domain in _WANTED[self.domain]]
        if not any(zone.domain == self.domain for zone in zones):
            raise NoSensorError(f"no RAPL {self.domain} zone in {folder}", fix=_NO_ZONE)
        with contextlib.ExitStack() as opened:
            held: dict[str, tuple[Rail, HeldFile]] = {}
            refused: dict[str, tuple[_Zone, OSError | ValueError]] = {}
            for zone in zones:
                if zone.rail in held:
                    continue  # the same counter again, through another provider
                try:
                    held[zone.rail] = (_rail(zone, self.gain_error), _hold(zone, opened))
                except (OSError, ValueError) as error:
                    refused.setdefault(zone.rail, (zone, error))
            notes = [_note_or_refuse(*refused[rail]) for rail in refused if rail not in held]
            if self.domain == "psys":
                notes.append("what psys covers is the board vendor's choice")
            rails, mirror_notes = _without_mirrors(list(held.values()))
            info = MeterInfo(
                name="rapl",
                version="1",
                rails=tuple(rail for rail, _ in rails),
                period_s=UPDATE_S,
                notes=(*notes, *mirror_notes),
            )
            readers = [functools.partial(_read_joules, file) for _, file in rails]
            return OpenRails(info, readers, opened=opened.pop_all(), now_ns=now_ns)


class _Zone(NamedTuple):
    folder: Path
    domain: str  # "package", "dram", "psys", "core", "uncore"
    rail: str


_WANTED = {"package": ("package", "dram"), "psys": ("psys",)}
_BOUNDARY = {
    "package": Boundary.CPU_PACKAGE,
    "dram": Boundary.CPU_PACKAGE,  # beside the package: added, they are the processor's side
    "psys": Boundary.BOARD_DC_INPUT,
}


def _zones(folder: Path) -> Iterator[_Zone]:
    """Every zone with a readable name; MSR providers before their MMIO and TPMI duplicates."""
    found = {path.name: path for path in (*folder.glob("*/*"), *folder.glob("*"))}
    matches = [match for name in found if (match := _ZONE.fullmatch(name))]
    for match in sorted(matches, key=lambda m: (len(m["provider"]), m.string)):
        path = found[match.string]
        with contextlib.suppress(OSError, KeyError):  # no name, or DRAM of no package
            name = read_line(path / "name")
            domain = name.partition("-")[0]
            rail = name
            if domain == "dram":
                owner = read_line(found[f"{match['provider']}:{match['package']}"] / "name")
                rail = f"dram-{owner.partition('-')[2]}"
            yield _Zone(path, domain, rail)


def _rail(zone: _Zone, gain_error: float) -> Rail:
    try:
        wraps_at_j = int(read_line(zone.folder / "max_energy_range_uj")) * 1e-6
    except (OSError, ValueError):
        wraps_at_j = None  # a counter that falls is then a lost stretch, never a number
    return Rail(
        name=zone.rail,
        boundary=_BOUNDARY[zone.domain],
        kind="counter",
        resolution=wraps_at_j / 2**_COUNTER_BITS if wraps_at_j else _COARSEST_STEP_J,
        gain_error=gain_error,
        max_power_w=MAX_POWER_W,
        update_s=UPDATE_S,
        wraps_at_j=wraps_at_j,
    )


def _hold(zone: _Zone, opened: contextlib.ExitStack) -> HeldFile:
    """Open a counter and read it once: a file that exists may still be for root alone."""
    file = HeldFile(zone.folder / "energy_uj")
    opened.callback(file.close)
    file.read_int()
    return file


def _read_joules(file: HeldFile) -> float:
    return file.read_int() * 1e-6


def _note_or_refuse(zone: _Zone, error: OSError | ValueError) -> str:
    """DRAM can be done without; a package that is not counted makes the sum wrong."""
    path = zone.folder / "energy_uj"
    if zone.domain == "dram":
        return f"{zone.rail} is left out: {error}"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        raise NoSensorError(f"{path}: only root may read it", fix=_CHMOD) from error
    raise NoSensorError(f"{path}: {error}", fix="look into `dmesg | grep -i rapl`") from error


def _without_mirrors(
    rails: list[tuple[Rail, HeldFile]],
) -> tuple[list[tuple[Rail, HeldFile]], list[str]]:
    """Leave out dies that show another die's counter (multi-die AMD): adding them counts twice.

    A mirror's value lies between two readings of the original. Real counters, 10^11 steps long,
    do not meet in those few steps by chance.
    """
    packages = [pair for pair in rails if pair[0].name.startswith("package")]
    mirrors = {
        later[0].name: earlier[0].name
        for i, later in enumerate(packages)
        for earlier in packages[:i]
        if _is_between(later[1], earlier[1])
    }
    notes = [f"{mirror} mirrors {of} and is left out" for mirror, of in mirrors.items()]
    return [pair for pair in rails if pair[0].name not in mirrors], notes


def _is_between(mirror: HeldFile, original: HeldFile) -> bool:
    try:
        low, value, high = original.read_int(), mirror.read_int(), original.read_int()
    except (OSError, ValueError):
        return False
    return low <= value <= high
