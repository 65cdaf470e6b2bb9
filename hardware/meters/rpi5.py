"""The power management chip of a Raspberry Pi 5, read through the firmware's mailbox.

The firmware answers `pmic_read_adc` with a line per current and per voltage; a rail's two lines
are paired by name (their indices differ). A sweep over the rails takes 23 ms, so that they are
not of one instant. What is fed from 5 V directly (USB, HATs, fan, NVMe) is not on these rails.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

from fedcore.energy import Boundary
from hardware.calibration import Calibration, load_calibration
from hardware.firmware import FAILURES, MAILBOX, Ask, find_ways
from hardware.meters.base import (
    Clock,
    MeterInfo,
    NoSensorError,
    OpenMeter,
    Rail,
    Sample,
    Sensor,
)
from hardware.sysfs import read_line

__all__ = ["RAILS", "Rpi5", "parse_pmic"]

RAILS = (
    "3V7_WL_SW",
    "3V3_SYS",
    "1V8_SYS",
    "DDR_VDD2",
    "DDR_VDDQ",
    "1V1_SYS",
    "0V8_SW",
    "VDD_CORE",
    "3V3_DAC",
    "3V3_ADC",
    "0V8_AON",
    "HDMI",
)
"""Rails with a current and a voltage; without any one of them there is no sum."""

_PMIC = Rail(
    name="pmic",
    boundary=Boundary.RAILS_SUM,
    kind="power",
    resolution=0.01,
    gain_error=0.05,
    max_power_w=27.0,
    update_s=0.023,
    offset_error_w=0.15,
)
"""The chip's accuracy is unpublished. Ours: 5 %, 10 mW, and 0.15 W, half of what the memory's
rails drew under load, which read 0 when it is light. 27 W is what the board's supply can give."""

_INPUT = "input"
_PERIOD_S = 0.1
_TREE = "proc/device-tree/model"
_ALIASES = {"0V8_SYS": "0V8_SW"}  # its name in older firmware
_LINE = re.compile(
    r"(?P<rail>\w+)_(?:A\s+current\(\d+\)=(?P<current>\d+\.?\d*)A"
    r"|V\s+volt\(\d+\)=(?P<volt>\d+\.?\d*)V)"
)
_CURRENT = re.compile(r"(\w+)_A\s")

_COMMAND = "pmic_read_adc"

_BUY = (
    "this board has no power sensor: wire an INA226 into its feed, put a UM25C or a smart plug "
    "before its supply, or take the modelled energy"
)


@dataclass(frozen=True, kw_only=True)
class Rpi5(Sensor):
    """Power of the board's own rails, and through a calibration that at its DC input.

    Attributes:
        calibration: name or path of the calibration for the rail "input"; "" for none.
    """

    calibration: str = "raspberry-pi-5-literature"

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Find a way to the firmware, and prove it by one reading.

        Raises:
            NoSensorError: this is no Raspberry Pi 5, or it may not be asked; with the exact fix.
            ConfigError: the calibration is unknown, changed, or another meter's.
        """
        root = Path(self.root)
        try:
            board = read_line(root / _TREE)
        except OSError as error:
            raise NoSensorError(
                f"no Raspberry Pi: {root / _TREE}: {error.strerror}",
                fix="in a Pi 5's container mount the host's tree and give the meter its root",
            ) from error
        calibration = load_calibration(self.calibration, meter="rpi5") if self.calibration else None
        with contextlib.ExitStack() as opened:
            ask = _way_to_firmware(root, opened)
            return _OpenPmic(board, calibration, ask, opened=opened.pop_all(), now_ns=now_ns)


def parse_pmic(text: str) -> float:
    """The sum of all rails in W.

    Raises:
        ValueError: a rail lacks its current or its voltage, or they are not numbers.
    """
    if "volt(" not in text:
        raise ValueError(f"{_COMMAND} answered {text.strip()[:80]!r}")
    found: dict[str, dict[str, float]] = {"current": {}, "volt": {}}
    for match in filter(None, map(_LINE.fullmatch, map(str.strip, text.splitlines()))):
        kind = "volt" if match["current"] is None else "current"
        found[kind][_ALIASES.get(match["rail"], match["rail"])] = float(match[kind])
    named = [_ALIASES.get(name, name) for name in _CURRENT.findall(text)]
    wanted = dict.fromkeys((*RAILS, *named))
    lost = [name for name in wanted if not all(name in values for values in found.values())]
    if lost:
        raise ValueError(f"no current or no voltage of {', '.join(lost)}")
    return sum(found["current"][name] * found["volt"][name] for name in wanted)


class _OpenPmic(OpenMeter):
    def __init__(
        self,
        board: str,
        calibration: Calibration | None,
        ask: Ask,
        *,
        opened: contextlib.ExitStack,
        now_ns: Clock,
    ) -> None:
        rails = [_PMIC]
        flags: tuple[str, ...] = ()
        notes = ["USB devices, HATs, fan and NVMe are fed from 5 V and not on these rails"]
        if calibration:
            rails.append(calibration.rail(_INPUT, _PMIC))
            flags = calibration.flags(_INPUT, board=board)
            notes.append(f"{_INPUT}: calibrated by {calibration.reference}")
        super().__init__(
            MeterInfo(
                name="rpi5",
                version="1",
                rails=tuple(rails),
                period_s=_PERIOD_S,
                notes=tuple(notes),
                flags=flags,
            )
        )
        self._calibration = calibration
        self._ask = ask
        self._opened = opened
        self._now_ns = now_ns

    def read(self) -> Sample:
        """Ask once for all rails."""
        fault, power_w = "", math.nan
        before_ns = self._now_ns()
        try:
            power_w = parse_pmic(self._ask(_COMMAND))
        except FAILURES as error:
            fault = f"pmic: {error}"
        mono_ns = (before_ns + self._now_ns()) // 2
        input_w = (self._calibration.apply(power_w),) if self._calibration else ()
        return Sample(mono_ns, (power_w, *input_w), fault)

    def close(self) -> None:
        self._opened.close()


def _way_to_firmware(root: Path, opened: contextlib.ExitStack) -> Ask:
    """The mailbox, else the program, whichever answers with voltages first."""
    ways = find_ways(root, opened)
    refused = [_not_in_group(path) for path in ways.locked]
    for ask in ways.asks:
        try:
            text = ask(_COMMAND)
        except FAILURES as error:
            refused.append(NoSensorError(f"{_COMMAND}: {error}", fix="update the Pi's firmware"))
            continue
        if "volt(" in text:
            return ask
        if "not registered" in text:
            refused.insert(0, NoSensorError(f"{_COMMAND}: {text.strip()[:80]}", fix=_BUY))
        else:
            refused.append(_not_in_group(root / MAILBOX, text.strip()[:80]))
    if refused:
        raise refused[0]
    raise NoSensorError(
        f"neither {root / MAILBOX} nor vcgencmd",
        fix="on a Pi 5 run `sudo apt install raspi-utils`; in a container add --device /dev/vcio",
    )


def _not_in_group(path: Path, said: str = "permission denied") -> NoSensorError:
    return NoSensorError(
        f"{path}: {said}", fix="run `sudo usermod -aG video $USER` and log in again"
    )
