"""What a board or laptop draws from its batteries, while nothing else feeds it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

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

__all__ = ["Battery"]

_SUPPLIES = "sys/class/power_supply"
_UPDATE_S = 5.0
"""Ours: fuel gauges answer with means of the last seconds, and no driver says of how many."""

_MAX_POWER_W = 300.0
"""Ours: above what a portable machine draws."""


@dataclass(frozen=True, kw_only=True)
class Battery(Sensor):
    """Power of all batteries together; missing while the machine is on mains.

    Attributes:
        gain_error: half-width of the 95 % interval of the scale factor, relative; ours, since
            fuel gauges come without a data sheet.
    """

    gain_error: float = 0.05

    def __post_init__(self) -> None:
        require_fraction(self.gain_error, name="gain_error")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Hold every battery's files open.

        Raises:
            NoSensorError: there is no battery, or none that tells its power.
        """
        folder = Path(self.root) / _SUPPLIES
        batteries = [path for path in sorted(folder.glob("*")) if _feeds_the_machine(path)]
        if not batteries:
            raise NoSensorError(
                f"no battery in {folder}", fix="a machine without one is measured at its supply"
            )
        with contextlib.ExitStack() as opened:
            powers = {path: _power(path, opened) for path in batteries}
            info = MeterInfo(
                name="battery",
                version="1",
                rails=(
                    Rail(
                        name="battery",
                        boundary=Boundary.BOARD_DC_INPUT,
                        kind="power",
                        resolution=0.01,
                        gain_error=self.gain_error,
                        max_power_w=_MAX_POWER_W,
                        update_s=_UPDATE_S,
                    ),
                ),
                period_s=1.0,
                notes=("screen, radio and all else that the battery feeds are included",),
            )
            return OpenRails(
                info,
                [functools.partial(_discharge_w, powers)],
                opened=opened.pop_all(),
                now_ns=now_ns,
            )


def _feeds_the_machine(supply: Path) -> bool:
    """Whether it is a battery of the machine: not a mouse's, and no USB source's promised limit."""
    try:
        is_battery = read_line(supply / "type") == "Battery"
    except OSError:
        return False
    with contextlib.suppress(OSError):
        return is_battery and read_line(supply / "scope") != "Device"
    return is_battery


def _power(battery: Path, opened: contextlib.ExitStack) -> Callable[[], float]:
    """How to read its power in W: its own, else current times voltage.

    The sign of a current is each driver's own choice; the direction is told by the status.
    """
    try:
        files = []
        names = (
            ["power_now"] if (battery / "power_now").exists() else ["current_now", "voltage_now"]
        )
        for name in names:
            files.append(HeldFile(battery / name))
            opened.callback(files[-1].close)
    except OSError as error:
        raise NoSensorError(
            f"{battery.name} tells neither power_now nor current_now and voltage_now",
            fix="put a meter before the machine's supply",
        ) from error
    return functools.partial(_read_w, battery.name, files)


def _read_w(name: str, files: list[HeldFile]) -> float:
    power_w = 1.0
    for file in files:
        power_w *= abs(file.read_int()) * 1e-6
    if power_w == 0:
        raise ValueError(f"{name} discharges and shows 0 W: its driver does not know")
    return power_w


def _discharge_w(powers: Mapping[Path, Callable[[], float]]) -> float:
    """The sum over the batteries that discharge; of several, one may rest.

    Raises:
        ValueError: none discharges or one is charged: something else feeds the machine.
        OSError: a battery cannot be read.
    """
    states = {battery: read_line(battery / "status") for battery in powers}
    feeding = [battery for battery, state in states.items() if state == "Discharging"]
    if not feeding or "Charging" in states.values():
        told = ", ".join(f"{battery.name} {state}" for battery, state in states.items())
        raise ValueError(f"on mains ({told}); unplug it, or measure before its supply")
    return sum(powers[battery]() for battery in feeding)
