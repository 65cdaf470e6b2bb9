"""Any chip of the kernel's hwmon tree that tells energy or power, as its documentation has it.

Energy counters go before averaged powers, those before powers of an instant, and these before the
product of a voltage and a current. What lies inside a chip's measurement is known for some drivers;
of any other chip somebody has to say it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from fedcore.energy import Boundary
from fedcore.types import Missing
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
from hardware.sysfs import HeldFile, place_of, read_parsed

__all__ = ["Hwmon"]

_CHIPS = "sys/class/hwmon/hwmon*"
_BOUNDARY = {
    "amd_energy": Boundary.CPU_PACKAGE,
    "amdgpu": Boundary.GPU_BOARD,
    "fam15h_power": Boundary.CPU_PACKAGE,
    "powerz": Boundary.BOARD_DC_INPUT,
}
"""What lies inside the chips that these drivers read (kernel documentation, hwmon)."""

_VOLTAGE_OF = {"powerz": "in0_input"}
"""Of the only current, where its number is another one (kernel documentation, powerz)."""

_OTHERS = frozenset(["ina219", "ina226", "ina260", "ina238", "ina3221"])  # have their own meters
_FILE = re.compile(r"(?P<kind>energy|power|curr)(?P<number>\d+)_(?P<of>input|average)")

_MAX_POWER_W = 1000.0  # ours; only tells a counter that went on from one that was reset
_UPDATE_S = 1.0  # ours: how old a value may be where the driver does not say


@dataclass(frozen=True, kw_only=True)
class Hwmon(Sensor):
    """Energy or power of one chip.

    Attributes:
        chip: its driver's name ("amdgpu"), or its place where two have the same ("amdgpu at
            0000:03:00.0"), as `leakwatt doctor` prints it; "" takes the one whose boundary is
            known.
        labels: of the channels that count; empty for all. A chip that nobody knows and that shows
            several has to be told: a total and its parts are never added.
        boundary: what its measurement holds, where that is not known here.
        gain_error: half-width of the 95 % interval of the scale factor, relative; ours, since the
            kernel does not tell.
    """

    chip: str = ""
    labels: tuple[str, ...] = ()
    boundary: Boundary | None = None
    gain_error: float = 0.05

    def __post_init__(self) -> None:
        require_fraction(self.gain_error, name="gain_error")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Hold the chip's files open.

        Raises:
            NoSensorError: there is no such chip or there are several, nobody said what it
                measures, or it cannot be read; with the exact fix.
        """
        chip, name = self._chosen()
        boundary = self.boundary or _BOUNDARY[name]
        channels = self._counting(chip, name)
        with contextlib.ExitStack() as opened:
            rails, readers = [], []
            for found in channels:
                try:
                    readers.append(found.hold(opened))
                except (OSError, ValueError) as error:
                    raise _refusal(channels, error) from error
                rails.append(
                    Rail(
                        name=found.label,
                        boundary=boundary,
                        kind=found.kind,
                        resolution=found.step,
                        gain_error=self.gain_error,
                        max_power_w=_MAX_POWER_W,
                        update_s=found.update_s,
                    )
                )
            info = MeterInfo(
                name="hwmon",
                version="1",
                rails=tuple(rails),
                period_s=min(rail.update_s for rail in rails),
                notes=(f"chip {_full_name(chip, name)}",),
            )
            return OpenRails(info, readers, opened=opened.pop_all(), now_ns=now_ns)

    def _chosen(self) -> tuple[Path, str]:
        """The chip that was named, or the first of a known boundary, and its driver's name."""
        folder = Path(self.root)
        chips = {path: read_parsed(path / "name", str) for path in sorted(folder.glob(_CHIPS))}
        named = {
            path: name
            for path, name in chips.items()
            if not isinstance(name, Missing) and name not in _OTHERS and list(_channels(path))
        }
        fitting = {
            path: name
            for path, name in named.items()
            if self.chip in (name, _full_name(path, name)) or (not self.chip and name in _BOUNDARY)
        }
        if len(fitting) > 1:
            names = [_full_name(path, name) for path, name in fitting.items()]
            raise NoSensorError(
                f"several chips fit: {', '.join(names)}",
                fix=f"name one: --meter hwmon --option 'chip={names[0]}'",
            )
        for path, name in fitting.items():
            if self.boundary or name in _BOUNDARY:
                return path, name
            raise NoSensorError(
                f"nobody knows what chip {name} measures",
                fix="say --option boundary=" + "|".join(b.value for b in Boundary),
            )
        seen = ", ".join(sorted({*named.values()})) or "none"
        raise NoSensorError(
            f"no {self.chip or 'known'} chip in {folder / 'sys/class/hwmon'} that tells energy or "
            f"power (those that do: {seen})",
            fix="if you know what one of them measures, name it: --option chip=, boundary=",
        )

    def _counting(self, chip: Path, name: str) -> list[_Channel]:
        channels = list(_channels(chip))
        seen = [channel.label for channel in channels]
        if odd := sorted({*self.labels} - {*seen}):
            raise NoSensorError(
                f"chip {name} has no {', '.join(odd)}", fix=f"it has {', '.join(seen)}"
            )
        if not self.labels and name not in _BOUNDARY and len(channels) > 1:
            raise NoSensorError(
                f"chip {name} shows {', '.join(seen)}, and one may hold the others",
                fix=f"name those that add up: --option 'labels=[\"{seen[0]}\"]'",
            )
        return [channel for channel in channels if not self.labels or channel.label in self.labels]


def _full_name(chip: Path, name: str) -> str:
    return f"{name} at {place_of(chip)}"


class _Channel(NamedTuple):
    label: str
    kind: Literal["counter", "power"]
    files: tuple[Path, ...]
    scale: float
    step: float
    update_s: float

    def hold(self, opened: contextlib.ExitStack) -> Callable[[], float]:
        """Open and read once: a file that exists may be for root alone."""
        held = []
        for path in self.files:
            held.append(HeldFile(path))
            opened.callback(held[-1].close)
        reader = functools.partial(_product, held, self.scale)
        reader()
        return reader


def _channels(chip: Path) -> Iterator[_Channel]:
    """The channels of the best kind that the chip has."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(chip.glob("*")):
        if match := _FILE.fullmatch(path.name):
            found.setdefault((match["kind"], match["of"]), []).append(match["number"])
    for kind, of in (("energy", "input"), ("power", "average"), ("power", "input")):
        for number in found.get((kind, of), ()):
            label = _label(chip, kind, number)
            if kind == "energy" and label.startswith("Ecore"):
                continue
            counts = kind == "energy"
            yield _Channel(
                label=label,
                kind="counter" if counts else "power",
                files=(chip / f"{kind}{number}_{of}",),
                scale=1e-6,
                step=1e-6,
                update_s=_update_s(chip, number, is_average=of == "average"),
            )
        if (kind, of) in found:
            return
    for number in found.get(("curr", "input"), ()):
        volt = _VOLTAGE_OF.get(str(read_parsed(chip / "name", str)), f"in{number}_input")
        if (chip / volt).exists():
            yield _Channel(
                label=_label(chip, "curr", number),
                kind="power",
                files=(chip / volt, chip / f"curr{number}_input"),
                scale=1e-6,
                step=1e-3,
                update_s=_update_s(chip, number, is_average=False),
            )


def _label(chip: Path, kind: str, number: str) -> str:
    label = read_parsed(chip / f"{kind}{number}_label", str)
    return f"{kind}{number}" if isinstance(label, Missing) or not label else label


def _update_s(chip: Path, number: str, *, is_average: bool) -> float:
    """From the file that says how long the average is, or how often the chip is asked."""
    file = f"power{number}_average_interval" if is_average else "update_interval"
    milliseconds = read_parsed(chip / file, int)
    return _UPDATE_S if isinstance(milliseconds, Missing) else max(milliseconds, 1) * 1e-3


def _refusal(channels: Sequence[_Channel], error: OSError | ValueError) -> NoSensorError:
    paths = [str(path) for channel in channels for path in channel.files]
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        return NoSensorError(
            f"{error.filename or paths[0]}: only root may read it",
            fix=f"run `sudo chmod a+r {' '.join(paths)}` (lasts until reboot)",
        )
    return NoSensorError(f"{paths[0]}: {error}", fix="look into `dmesg`")


def _product(files: Sequence[HeldFile], scale: float) -> float:
    return scale * math.prod(file.read_int() for file in files)
