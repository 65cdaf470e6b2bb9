"""INA219, INA226 and INA260 in a board's feed: through the kernel's driver, or straight over I2C.

Power is the product of bus voltage and signed current: the chips' own power has no sign, and their
calibration register is lost when the supply dips. What is measured is what flows through the
shunt: wired into the 5 V feed, the whole board.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fedcore.energy import Boundary
from fedcore.errors import ConfigError
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
from hardware.sysfs import HeldFile, place_of, read_parsed

__all__ = ["Ina2xx", "Ina2xxI2c"]

_CHIPS = "sys/class/hwmon/hwmon*"
_SHUNT_OF_DRIVER_UOHM = {"ina219": 10_000}  # what the driver takes; breakouts carry 100,000

_MAX_POWER_W = 150.0  # above what a board draws
_UPDATE_S = 0.01  # ours: the drivers' defaults convert every few ms
_DRIVERS_OHM = 0.01  # where the driver shows no shunt
_INCLUDED = "the whole board behind the shunt, with its radio and all that it feeds"
_GUESS = (
    "the driver takes a shunt of 10 mOhm; breakouts carry 100 mOhm, and then every current is ten "
    "times too large: `echo 100000 | sudo tee {chip}/shunt_resistor`"
)
"""The driver's own guess of the shunt, which is wrong on the usual breakout by a factor 10."""


class _Chip(NamedTuple):
    """Facts of the data sheets (SBOS448, SBOS547, SBOS656); registers are the bus protocol's.

    The INA219's offset is that of its widest range and of grade A.
    """

    gain_error: float  # of the chip alone
    volt_register: int
    volt_step: float  # V per count
    volt_shift: int  # bits below the value
    shunt_register: int
    shunt_step: float  # V per count across the shunt, or A per count (INA260)
    full_scale: int  # counts across the shunt; the true current may be any above
    offset: float  # at most, in V across the shunt or in A (INA260), over all grades
    identity: tuple[int, int] | None  # register and what it holds


_KNOWN = {
    "ina219": _Chip(0.01, 0x02, 4e-3, 3, 0x01, 10e-6, 32000, 200e-6, None),
    "ina226": _Chip(0.001, 0x02, 1.25e-3, 0, 0x01, 2.5e-6, 32767, 10e-6, (0xFF, 0x2260)),
    "ina260": _Chip(0.0015, 0x02, 1.25e-3, 0, 0x01, 1.25e-3, 32767, 5e-3, (0xFF, 0x2270)),
}


class _Scale(NamedTuple):
    """A chip on its shunt, in A."""

    step_a: float
    limit_a: float
    offset_a: float

    @classmethod
    def of(cls, name: str, shunt_ohm: float) -> _Scale:
        facts = _KNOWN[name]
        per_a = 1.0 if name == "ina260" else shunt_ohm
        step_a = facts.shunt_step / per_a
        return cls(step_a, step_a * facts.full_scale, facts.offset / per_a)

    def checked(self, ampere: float) -> float:
        """The current.

        Raises:
            ValueError: it is at the chip's full scale.
        """
        if abs(ampere) >= self.limit_a * (1 - 1e-4):  # the driver rounds
            raise ValueError(f"at its full scale, {ampere:.3g} A: take a smaller shunt")
        return ampere

    def rail(self, name: str, where: str, *, volt: float, shunt_error: float) -> Rail:
        return Rail(
            name=f"{name}-{where}",
            boundary=Boundary.BOARD_DC_INPUT,
            kind="power",
            resolution=volt * self.step_a,
            gain_error=_KNOWN[name].gain_error + (0 if name == "ina260" else shunt_error),
            max_power_w=_MAX_POWER_W,
            update_s=_UPDATE_S,
            offset_error_w=volt * self.offset_a,
        )

    def note(self) -> str:
        return f"up to {self.limit_a:.3g} A, nothing above; a board may draw 3 A (Pi 4) or 5 A"


@dataclass(frozen=True, kw_only=True)
class Ina2xx(Sensor):
    """The chip that the kernel's driver shows; which one, where there are several, is to be said.

    Attributes:
        device: its place on the bus ("1-0040"), as `leakwatt doctor` prints it; "" where there is
            one alone.
        shunt_error: tolerance of the shunt, relative; 1 % on most breakouts.
    """

    device: str = ""
    shunt_error: float = 0.01

    def __post_init__(self) -> None:
        require_fraction(self.shunt_error, name="shunt_error")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Hold voltage and current of the chip open.

        Raises:
            NoSensorError: there is no such chip, several and none is named, or it cannot be read;
                with the exact fix.
        """
        chip, name = self._chosen()
        uohm = read_parsed(chip / "shunt_resistor", int)
        shunt_ohm = uohm * 1e-6 if isinstance(uohm, int) and uohm > 0 else _DRIVERS_OHM
        scale = _Scale.of(name, shunt_ohm)
        with contextlib.ExitStack() as opened:
            try:
                volt, ampere = (_hold(chip / file, opened) for file in ("in1_input", "curr1_input"))
                volt_now = volt()
                ampere()
            except (OSError, ValueError) as error:
                raise NoSensorError(
                    f"{chip}: {error}", fix="look at the wiring, and into `dmesg`"
                ) from error
            guess = [_GUESS.format(chip=chip)] if uohm == _SHUNT_OF_DRIVER_UOHM.get(name) else []
            rail = scale._replace(step_a=max(scale.step_a, 1e-3)).rail(
                name, place_of(chip), volt=volt_now, shunt_error=self.shunt_error
            )
            info = MeterInfo(
                name="ina2xx",
                version="2",
                rails=(rail,),
                period_s=_UPDATE_S,
                notes=(_INCLUDED, scale.note(), *guess),
                flags=("shunt-suspect",) if guess else (),
            )
            readers = [lambda: volt() * scale.checked(ampere())]
            return OpenRails(info, readers, opened=opened.pop_all(), now_ns=now_ns)

    def _chosen(self) -> tuple[Path, str]:
        """The chip and its name."""
        found = [
            (chip, name)
            for chip in sorted(Path(self.root).glob(_CHIPS))
            if isinstance(name := read_parsed(chip / "name", str), str) and name in _KNOWN
        ]
        chosen = [one for one in found if self.device in ("", place_of(one[0]))]
        if len(chosen) == 1:
            return chosen[0]
        seen = ", ".join(f"{name} at {place_of(chip)}" for chip, name in found)
        if chosen:
            raise NoSensorError(
                f"{seen}: which of them is the board's feed is not known, and adding them may "
                "count it twice",
                fix=f"name it: --meter ina2xx --option device={place_of(chosen[0][0])}",
            )
        raise NoSensorError(
            f"no INA219, INA226 or INA260 {self.device or 'at all'} in "
            f"{Path(self.root) / 'sys/class/hwmon'} (there: {seen or 'none'})",
            fix="wire one into the 5 V feed and add dtoverlay=i2c-sensor,ina226,"
            "shunt-resistor=20000 to /boot/firmware/config.txt, or name the meter ina2xx-i2c",
        )


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
                volt = self._volt(bus)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    place = f"{self.bus}-{self.address:04x}"
                    raise NoSensorError(
                        f"{place}: the kernel's driver holds the chip",
                        fix=f"read it through that: --meter ina2xx --option device={place}",
                    ) from error
                raise NoSensorError(
                    f"/dev/i2c-{self.bus}, address {self.address:#x}: {error.strerror or error}",
                    fix="switch I2C on (`sudo raspi-config`), join the group i2c "
                    "(`sudo usermod -aG i2c $USER`, log in again), and look with `i2cdetect -y "
                    f"{self.bus}`",
                ) from error
            scale = _Scale.of(self.chip, self.shunt_ohm)
            rail = scale.rail(
                self.chip, f"{self.address:#x}", volt=volt, shunt_error=self.shunt_error
            )
            info = MeterInfo(
                name="ina2xx-i2c",
                version="2",
                rails=(rail,),
                period_s=_UPDATE_S,
                notes=(_INCLUDED, scale.note()),
            )
            readers = [functools.partial(self._watts, bus, scale)]
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

    def _watts(self, bus: Any, scale: _Scale) -> float:
        counts = _signed(self._word(bus, _KNOWN[self.chip].shunt_register))
        return self._volt(bus) * scale.checked(counts * scale.step_a)

    def _volt(self, bus: Any) -> float:
        facts = _KNOWN[self.chip]
        return (self._word(bus, facts.volt_register) >> facts.volt_shift) * facts.volt_step

    def _word(self, bus: Any, register: int) -> int:
        """Registers are big-endian, whatever the bus library makes of words."""
        high, low = bus.read_i2c_block_data(self.address, register, 2)
        return int(high) << 8 | int(low)


def _signed(word: int) -> int:
    return word - (1 << 16) if word & 1 << 15 else word


def _hold(path: Path, opened: contextlib.ExitStack) -> Callable[[], float]:
    """How to read a file's thousandths."""
    held = HeldFile(path)
    opened.callback(held.close)
    return lambda: held.read_int() * 1e-3
