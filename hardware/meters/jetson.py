"""NVIDIA Jetson boards: INA3221 chips under both kernels, and the INA238 of Thor's carrier.

JetPack 4 (kernel 4.9) shows a chip as an iio device with powers in mW; JetPack 5 and later as hwmon
with voltages in mV and currents in mA. Rails are found by their labels, never by numbers, which
change with boot and release. `hardware/boards.toml` says which of them make up a board's total.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fedcore.energy import Boundary
from fedcore.strict import parse
from fedcore.toml import read_toml
from fedcore.types import Missing
from hardware.calibration import Calibration, load_calibration
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
from hardware.sysfs import HeldFile, read_line, read_parsed

__all__ = ["Board", "Jetson", "boards"]

_TABLE = Path(__file__).resolve().parents[1] / "boards.toml"
_TREE = Path("proc/device-tree")
_IIO = "sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"
_HWMON = ("sys/class/hwmon/hwmon*", "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")
_NOT_CONNECTED = ("", "NC")
_N_CHANNELS = 3  # in4 to in7 are shunt voltages and their sum

_SHUNT_OHM = 0.005  # of most modules; kernels before 5 do not tell
_SHUNT_STEP_V = 40e-6  # INA3221 data sheet
_SHUNT_OFFSET_V = 80e-6  # INA3221 data sheet, largest offset
_INA238_STEP_W = 0.01  # ours: finer than anything seen

_PERIOD_S = 0.01  # a rail takes half a millisecond over I2C
_UPDATE_S = 0.0066  # three channels of two conversions of 1.1 ms, the default
_MAX_POWER_W = 200.0  # above what a board draws

_NOT_THE_BOARD = (
    "sensors of Jetson modules read up to half less than a meter in the board's feed "
    "(arXiv 2306.13107): `leakwatt calibrate` compares this one with yours"
)


@dataclass(frozen=True, kw_only=True)
class Board:
    """What is known of one kind of board.

    Attributes:
        name: for people.
        compatible: pieces of the device tree's names for it.
        total: disjoint rails that make up all of the boundary.
        boundary: what they hold.
        parts: disjoint rails inside it.
    """

    name: str
    compatible: tuple[str, ...]
    total: tuple[str, ...]
    boundary: Boundary
    parts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Jetson(Sensor):
    """The power of a Jetson module, or of its board where the carrier measures it.

    Attributes:
        rails: the "total", or the disjoint "parts" that the chips tell apart. On Xavier NX, Orin
            Nano and NX one part holds processor, graphics and accelerators: it is none of them.
        calibration: path of a calibration by `leakwatt calibrate` for the rail "input"; "" for
            none. Of the total only.
        gain_error: half-width of the 95 % interval of the scale factor, relative; ours: the
            chip's 0.25 %, the shunt's 1 %, and voltage and current that are not read at once.
    """

    rails: Literal["total", "parts"] = "total"
    calibration: str = ""
    gain_error: float = 0.05

    def __post_init__(self) -> None:
        require_fraction(self.gain_error, name="gain_error")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Hold the files of the wanted rails open.

        Raises:
            NoSensorError: there are no such chips, no total is known for their rails, or one of
                the total's rails cannot be read.
            ConfigError: the calibration is unknown, changed, or another meter's.
        """
        root = Path(self.root)
        channels = _channels(root)
        if not channels:
            raise NoSensorError(
                f"no INA3221 rails under {root}",
                fix="on a Jetson in a container mount the host's tree and give the meter its root",
            )
        board = _board_of(root, channels)
        with contextlib.ExitStack() as opened:
            if self.rails == "parts":
                rails, readers, notes = self._parts(board, channels, opened)
            else:
                rails, readers, notes = self._total(board, channels, opened)
            flags: list[str] = []
            if _labels_are_suspect(board, channels):
                flags.append("rail-labels-suspect")
            if self.calibration and self.rails == "total":
                calibration = load_calibration(self.calibration, meter="jetson")
                rails.append(calibration.rail("input", rails[0]))
                readers.append(functools.partial(_calibrated, readers[0], calibration))
                model = read_parsed(root / _TREE / "model", str)
                known = board.name if isinstance(model, Missing) else model
                flags += calibration.flags("input", board=known)
            info = MeterInfo(
                name="jetson",
                version="1",
                rails=tuple(rails),
                period_s=_PERIOD_S,
                notes=(f"rails as on the {board.name}", *notes),
                flags=tuple(flags),
            )
            return OpenRails(info, readers, opened=opened.pop_all(), now_ns=now_ns)

    def _total(
        self, board: Board, channels: Mapping[str, _Channel], opened: contextlib.ExitStack
    ) -> tuple[list[Rail], list[Callable[[], float]], list[str]]:
        """One rail, which is one of the board's or the sum of those that make up its boundary."""
        held = []
        for name in board.total:
            try:
                held.append((channels[name], channels[name].hold(opened)))
            except (OSError, ValueError) as error:
                raise NoSensorError(
                    f"{board.name}: rail {name}, a part of the total, cannot be read ({error})",
                    fix="look into `dmesg | grep -i ina`",
                ) from error
        readers = [reader for _, reader in held]
        rail = Rail(
            name="+".join(board.total),
            boundary=board.boundary,
            kind="power",
            resolution=math.fsum(channel.step_w for channel, _ in held),
            gain_error=self.gain_error,
            max_power_w=_MAX_POWER_W,
            update_s=_UPDATE_S,
            offset_error_w=math.fsum(channel.offset_error_w for channel, _ in held),
        )
        notes = [_NOT_THE_BOARD] if board.boundary is not Boundary.BOARD_DC_INPUT else []
        return [rail], [functools.partial(_sum, readers)], notes

    def _parts(
        self, board: Board, channels: Mapping[str, _Channel], opened: contextlib.ExitStack
    ) -> tuple[list[Rail], list[Callable[[], float]], list[str]]:
        """The disjoint parts that can be read; they do not make up the board."""
        rails, readers, notes = [], [], ["parts, which do not make up the board"]
        for name in board.parts:
            try:
                readers.append(channels[name].hold(opened))
            except (KeyError, OSError, ValueError) as error:
                notes.append(f"{name} is left out: {error}")
                continue
            rails.append(
                Rail(
                    name=name,
                    boundary=Boundary.RAILS_SUM,
                    kind="power",
                    resolution=channels[name].step_w,
                    gain_error=self.gain_error,
                    max_power_w=_MAX_POWER_W,
                    update_s=_UPDATE_S,
                    offset_error_w=channels[name].offset_error_w,
                )
            )
        if not rails:
            raise NoSensorError(f"{board.name}: {'; '.join(notes)}", fix="look into `dmesg`")
        return rails, readers, notes


@functools.cache
def boards() -> tuple[Board, ...]:
    """All that `hardware/boards.toml` knows."""
    table = read_toml(_TABLE, where=_TABLE.name)
    return tuple(parse(Board, board, where=_TABLE.name) for board in table["boards"])


@dataclass(frozen=True, kw_only=True)
class _Channel:
    """One labelled input of a chip.

    Attributes:
        files: whose product, in the chip's units, is the power.
        scale: W per product.
        step_w: smallest step at the voltage seen when it was found.
        offset_error_w: of the chip at that voltage.
    """

    files: tuple[Path, ...]
    scale: float
    step_w: float
    offset_error_w: float

    def hold(self, opened: contextlib.ExitStack) -> Callable[[], float]:
        """Open the files, and read once: a file that exists may have nothing to say."""
        held = []
        for path in self.files:
            held.append(HeldFile(path))
            opened.callback(held[-1].close)
        reader = functools.partial(_product, held, self.scale)
        reader()
        return reader


def _channels(root: Path) -> dict[str, _Channel]:
    """Every connected channel by its label."""
    found: dict[str, _Channel] = {}
    for label, channel in (*_iio_channels(root), *_hwmon_channels(root)):
        if label not in _NOT_CONNECTED:
            found.setdefault(label, channel)
    return found


def _iio_channels(root: Path) -> Iterator[tuple[str, _Channel]]:
    for file in sorted(root.glob(_IIO)):
        label, number = read_parsed(file, str), file.name.removeprefix("rail_name_")
        if not isinstance(label, Missing):
            volt = _number(file.with_name(f"in_voltage{number}_input"), 1e-3, otherwise=5.0)
            power = file.with_name(f"in_power{number}_input")
            yield label, _ina3221((power,), 1e-3, volt=volt, ohm=_SHUNT_OHM)


def _hwmon_channels(root: Path) -> Iterator[tuple[str, _Channel]]:
    for chip in sorted(path for pattern in _HWMON for path in root.glob(pattern)):
        name = read_parsed(chip / "name", str)
        if name == "ina238":
            label = read_parsed(chip / "power1_label", str)
            channel = _Channel(
                files=(chip / "power1_input",),
                scale=1e-6,
                step_w=_INA238_STEP_W,
                offset_error_w=0.0,
            )
            yield "VIN" if isinstance(label, Missing) else label, channel
        elif name == "ina3221" or "ina3221" in chip.parts:
            yield from _ina3221_channels(chip)


def _ina3221_channels(chip: Path) -> Iterator[tuple[str, _Channel]]:
    for number in range(1, _N_CHANNELS + 1):
        labels = [read_parsed(chip / f"{of}{number}_label", str) for of in ("in", "curr")]
        label = next((text for text in labels if not isinstance(text, Missing)), "")
        files = chip / f"in{number}_input", chip / f"curr{number}_input"
        volt = _number(files[0], 1e-3, otherwise=5.0)
        ohm = _number(chip / f"shunt{number}_resistor", 1e-6, otherwise=_SHUNT_OHM)
        yield label, _ina3221(files, 1e-6, volt=volt, ohm=ohm)


def _ina3221(files: tuple[Path, ...], scale: float, *, volt: float, ohm: float) -> _Channel:
    return _Channel(
        files=files,
        scale=scale,
        step_w=_SHUNT_STEP_V / ohm * volt,
        offset_error_w=_SHUNT_OFFSET_V / ohm * volt,
    )


def _number(path: Path, scale: float, *, otherwise: float) -> float:
    """A number above 0 in a file, or what is usual."""
    value = read_parsed(path, int)
    return otherwise if isinstance(value, Missing) or value <= 0 else value * scale


def _board_of(root: Path, channels: Mapping[str, _Channel]) -> Board:
    """By the device tree, or else by the rails; in both cases its total has to be there."""
    try:
        names = read_line(root / _TREE / "compatible").replace("\0", " ")
    except OSError:
        names = ""
    named = [b for b in boards() if any(piece in names for piece in b.compatible)]
    for board in (*named, *map(_guessed, boards())):
        if channels.keys() >= {*board.total}:
            return board
    raise NoSensorError(
        f"no total is known for the rails {', '.join(sorted(channels))}",
        fix="measure the board at its supply (INA226, USB meter, plug), and tell us its rails",
    )


def _guessed(board: Board) -> Board:
    return replace(board, name=f"{board.name}, by its rails")


def _labels_are_suspect(board: Board, channels: Mapping[str, _Channel]) -> bool:
    """Whether a total reads less than one of its parts, as on carriers with swapped labels."""
    powers = {}
    for name in {*board.total, *board.parts} & channels.keys():
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError, ValueError):
            powers[name] = channels[name].hold(opened)()
    total = math.fsum(powers.get(name, math.nan) for name in board.total)
    return any(total < 0.9 * powers[name] for name in board.parts if name in powers)


def _product(files: Sequence[HeldFile], scale: float) -> float:
    return scale * math.prod(file.read_int() for file in files)


def _sum(readers: Sequence[Callable[[], float]]) -> float:
    return math.fsum(reader() for reader in readers)


def _calibrated(reader: Callable[[], float], calibration: Calibration) -> float:
    return calibration.apply(reader())
