"""INA219, INA226 and INA260 in a board's feed: through the kernel's driver, or straight over I2C.

Power is the product of bus voltage and signed current: the chips' own power has no sign, and their
calibration register is lost when the supply dips. What is measured is what flows through the
shunt: wired into the 5 V feed, the whole board.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fedcore.energy import Boundary
from fedcore.errors import ConfigError
from fedcore.types import Missing
from hardware.meters.base import (
    Clock,
    Meter,
    MeterInfo,
    NoSensorError,
    OpenMeter,
    OpenRails,
    Rail,
    Sensor,
    require_fraction,
)
from hardware.sysfs import HeldFile, read_parsed

__all__ = ["Ina2xx", "Ina2xxI2c"]

_CHIPS = "sys/class/hwmon/hwmon*"
_SHUNT_OF_DRIVER_UOHM = {"ina219": 10_000}  # what the driver takes; breakouts carry 100,000

_FULL_SCALE = (1 << 15) - 1  # counts across the shunt; the true current may be any above
_MAX_POWER_W = 150.0  # above what a board draws
_UPDATE_S = 0.01  # ours: the drivers' defaults convert every few ms
_INCLUDED = "the whole board behind the shunt, with its radio and all that it feeds"


class _Chip(NamedTuple):
    """Facts of the data sheets; register numbers are those of the bus protocol."""

    gain_error: float  # of the chip alone
    volt_register: int
    volt_step: float  # V per count
    volt_shift: int  # bits below the value
    shunt_register: int
    shunt_step: float  # V per count across the shunt, or A per count (INA260)
    identity: tuple[int, int] | None  # register and what it holds


_KNOWN = {
    "ina219": _Chip(0.01, 0x02, 4e-3, 3, 0x01, 10e-6, None),
    "ina226": _Chip(0.001, 0x02, 1.25e-3, 0, 0x01, 2.5e-6, (0xFF, 0x2260)),
    "ina260": _Chip(0.0015, 0x02, 1.25e-3, 0, 0x01, 1.25e-3, (0xFF, 0x2270)),
}


@dataclass(frozen=True, kw_only=True)
class Ina2xx(Sensor):
    """All such chips that the kernel's driver shows.

    Attributes:
        shunt_error: tolerance of the shunt, relative; 1 % on most breakouts.
    """

    shunt_error: float = 0.01

    def __post_init__(self) -> None:
        require_fraction(self.shunt_error, name="shunt_error")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Hold voltage and current of every chip open.

        Raises:
            NoSensorError: there is no such chip, or one cannot be read; with the exact fix.
        """
        found = [
            (chip, name)
            for chip in sorted(Path(self.root).glob(_CHIPS))
            if isinstance(name := read_parsed(chip / "name", str), str) and name in _KNOWN
        ]
        if not found:
            raise NoSensorError(
                f"no INA219, INA226 or INA260 in {Path(self.root) / 'sys/class/hwmon'}",
                fix="wire one into the 5 V feed and add dtoverlay=i2c-sensor,ina226,"
                "shunt-resistor=20000 to /boot/firmware/config.txt, or name the meter ina2xx-i2c",
            )
        with contextlib.ExitStack() as opened:
            rails, readers, notes = [], [], [_INCLUDED]
            for chip, name in found:
                try:
                    readers.append(_hold(chip, opened))
                except (OSError, ValueError) as error:
                    raise NoSensorError(
                        f"{chip}: {error}", fix="look at the wiring, and into `dmesg`"
                    ) from error
                rails.append(_rail(chip, name, shunt_error=self.shunt_error))
                notes += _shunt_note(chip, name)
            info = MeterInfo(
                name="ina2xx",
                version="1",
                rails=tuple(rails),
                period_s=_UPDATE_S,
                notes=tuple(notes),
                flags=("shunt-suspect",) if len(notes) > 1 else (),
            )
            return OpenRails(info, readers, opened=opened.pop_all(), now_ns=now_ns)


@dataclass(frozen=True, kw_only=True)
class Ina2xxI2c(Meter):
    """One chip on an I2C bus that no driver holds; needs smbus2.

    Attributes:
        bus: number of the bus; 1 on the header of a Raspberry Pi.
        address: of the chip, 0x40 to 0x4f.
        chip: which.
        shunt_ohm: resistance of the shunt; the INA260 has its own, of 2 mOhm.
        shunt_error: its tolerance, relative.
    """

    bus: int
    address: int = 0x40
    chip: Literal["ina219", "ina226", "ina260"] = "ina226"
    shunt_ohm: float = 0.1
    shunt_error: float = 0.01

    def __post_init__(self) -> None:
        require_fraction(self.shunt_error, name="shunt_error")
        if not 0x40 <= self.address <= 0x4F:
            raise ConfigError(f"address must lie in 0x40 to 0x4f; got {self.address:#x}")
        if not self.shunt_ohm > 0:
            raise ConfigError(f"shunt_ohm must be > 0; got {self.shunt_ohm}")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Open the bus, and ask the chip what it is.

        Raises:
            NoSensorError: no bus, no package for it, no answer, or another chip.
        """
        try:
            smbus2: Any = importlib.import_module("smbus2")
        except ImportError as error:
            raise NoSensorError(str(error), fix="run `pip install 'leakwatt[i2c]'`") from error
        with contextlib.ExitStack() as opened:
            try:
                bus = opened.enter_context(smbus2.SMBus(self.bus))
                self._check_identity(bus)
            except OSError as error:
                raise NoSensorError(
                    f"/dev/i2c-{self.bus}, address {self.address:#x}: {error.strerror or error}",
                    fix="switch I2C on (`sudo raspi-config`), join the group i2c "
                    "(`sudo usermod -aG i2c $USER`, log in again), and look with `i2cdetect -y "
                    f"{self.bus}`",
                ) from error
            facts = _KNOWN[self.chip]
            step_a = self._ampere(1)
            rail = Rail(
                name=f"{self.chip}-{self.address:#x}",
                boundary=Boundary.BOARD_DC_INPUT,
                kind="power",
                resolution=5 * step_a,
                gain_error=facts.gain_error + (0 if self.chip == "ina260" else self.shunt_error),
                max_power_w=_MAX_POWER_W,
                update_s=_UPDATE_S,
            )
            info = MeterInfo(
                name="ina2xx-i2c",
                version="1",
                rails=(rail,),
                period_s=_UPDATE_S,
                notes=(_INCLUDED,),
            )
            readers = [functools.partial(self._watts, bus)]
            return OpenRails(info, readers, opened=opened.pop_all(), now_ns=now_ns)

    def _check_identity(self, bus: Any) -> None:
        """The INA219 has no number of its own to tell it by: it only has to answer."""
        facts = _KNOWN[self.chip]
        if facts.identity is None:
            self._word(bus, facts.volt_register)
            return
        register, expected = facts.identity
        if (found := self._word(bus, register)) & 0xFFF0 != expected & 0xFFF0:
            raise NoSensorError(
                f"address {self.address:#x} answers {found:#06x}, expected {expected:#06x} of an "
                f"{self.chip}",
                fix="say which chip it is: --option chip=ina219, ina226 or ina260",
            )

    def _watts(self, bus: Any) -> float:
        facts = _KNOWN[self.chip]
        volt = (self._word(bus, facts.volt_register) >> facts.volt_shift) * facts.volt_step
        counts = _signed(self._word(bus, facts.shunt_register))
        if abs(counts) >= _FULL_SCALE:
            raise ValueError(
                f"the {self.chip} is at its full scale, {self._ampere(counts):.3g} A: take a "
                "smaller shunt"
            )
        return volt * self._ampere(counts)

    def _ampere(self, counts: int) -> float:
        per_count = _KNOWN[self.chip].shunt_step
        return counts * (per_count if self.chip == "ina260" else per_count / self.shunt_ohm)

    def _word(self, bus: Any, register: int) -> int:
        """Registers are big-endian, whatever the bus library makes of words."""
        high, low = bus.read_i2c_block_data(self.address, register, 2)
        return int(high) << 8 | int(low)


def _signed(word: int) -> int:
    return word - (1 << 16) if word & 1 << 15 else word


def _hold(chip: Path, opened: contextlib.ExitStack) -> Callable[[], float]:
    held = []
    for name in ("in1_input", "curr1_input"):
        held.append(HeldFile(chip / name))
        opened.callback(held[-1].close)
    reader = functools.partial(_milli_product, held)
    reader()
    return reader


def _milli_product(held: Sequence[HeldFile]) -> float:
    volt, ampere = (file.read_int() * 1e-3 for file in held)
    return volt * ampere


def _rail(chip: Path, name: str, *, shunt_error: float) -> Rail:
    facts = _KNOWN[name]
    volt, uohm = (read_parsed(chip / file, int) for file in ("in1_input", "shunt_resistor"))
    step_a = 1e-3  # the driver's
    if not isinstance(uohm, Missing) and uohm > 0 and name != "ina260":
        step_a = max(step_a, facts.shunt_step / (uohm * 1e-6))
    return Rail(
        name=f"{name}-{chip.name}",
        boundary=Boundary.BOARD_DC_INPUT,
        kind="power",
        resolution=step_a * (5.0 if isinstance(volt, Missing) else volt * 1e-3),
        gain_error=facts.gain_error + (0 if name == "ina260" else shunt_error),
        max_power_w=_MAX_POWER_W,
        update_s=_UPDATE_S,
    )


def _shunt_note(chip: Path, name: str) -> Iterator[str]:
    """The driver's own guess of the shunt, which is wrong on the usual breakout by a factor 10."""
    uohm = read_parsed(chip / "shunt_resistor", int)
    if not isinstance(uohm, Missing) and uohm == _SHUNT_OF_DRIVER_UOHM.get(name):
        yield (
            f"the driver takes a shunt of {uohm / 1000:g} mOhm; breakouts carry 100 mOhm, and then "
            f"every current is ten times too large: `echo 100000 | sudo tee {chip}/shunt_resistor`"
        )
