"""USB meters of RDTech (UM24C, UM25C, UM34C) in a board's supply cable, over a serial port.

Asked with the byte 0xF0, the meter answers with 130 bytes, big-endian.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import struct
import termios
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedcore.energy import Boundary
from hardware.meters.base import (
    Clock,
    Meter,
    MeterInfo,
    NoSensorError,
    OpenMeter,
    OpenRails,
    Rail,
)

__all__ = ["UsbMeter"]

_ASK = b"\xf0"
_FRAME = struct.Struct(">HHHLHHH80sHHHLLHLHHHLHBB")  # 130 bytes: model, V, A, W, and the display
_TIMEOUT_S = 1.0
_UPDATE_S = 0.5
"""The meters refresh twice a second."""

_BAUD = 9600  # of a wired port; Bluetooth ignores it


class _Model(NamedTuple):
    """The numbers by which a model tells its name, its scales, and how well it measures."""

    name: str
    numbers: tuple[int, ...]
    volt: float
    ampere: float
    resolution_w: float
    gain_error: float
    offset_error_w: float

    def agrees(self, volt: int, ampere: int, power_w: float) -> bool:
        """Whether V x A, in this model's scales, is the W of the same frame."""
        product_w = volt * self.volt * ampere * self.ampere
        return abs(power_w - product_w) <= 0.02 * product_w + 0.1  # ours


_MODELS = (
    _Model("UM24C", (0x0963,), 1e-2, 1e-3, 0.01, 0.02, 0.05),
    _Model("UM25C", (0x09C9, 0x0963), 1e-3, 1e-4, 0.001, 0.0015, 0.01),
    _Model("UM34C", (0x0D4C,), 1e-2, 1e-3, 0.01, 0.02, 0.05),
)
"""UM25C by its manual: 0.05 % of V, 0.1 % and 4 digits of A (at up to 24 V). The others: ours.
Published readers disagree on the UM25C's number; its scales, 100 times finer, tell it apart."""


@dataclass(frozen=True, kw_only=True)
class UsbMeter(Meter):
    """Power through a USB meter: the whole board, with its radio and its carrier.

    Attributes:
        port: of the meter ("/dev/rfcomm0", "/dev/ttyUSB0", or a URL of pyserial's).
    """

    port: str

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Take the port and learn the model from a first reading.

        Raises:
            NoSensorError: the port cannot be taken, or no such meter answers on it.
        """
        try:
            serial = importlib.import_module("serial")
        except ImportError as error:
            raise NoSensorError(str(error), fix="run `pip install 'leakwatt[serial]'`") from error
        with contextlib.ExitStack() as opened:
            try:
                link = opened.enter_context(
                    serial.serial_for_url(
                        self.port, baudrate=_BAUD, timeout=_TIMEOUT_S, write_timeout=_TIMEOUT_S
                    )
                )
            except (OSError, ValueError) as error:
                raise NoSensorError(
                    f"{self.port}: {error}",
                    fix="pair the meter and run `sudo rfcomm bind 0 ADDRESS`; to use a port "
                    "without root run `sudo usermod -aG dialout $USER` and log in again",
                ) from error
            try:
                model, _ = _read(link)
            except (OSError, ValueError) as error:
                raise NoSensorError(
                    f"{self.port}: {error}",
                    fix="switch the meter on, and free it from a phone that is paired with it",
                ) from error
            info = MeterInfo(
                name="usb-meter",
                version="1",
                rails=(
                    Rail(
                        name=model.name,
                        boundary=Boundary.BOARD_DC_INPUT,
                        kind="power",
                        resolution=model.resolution_w,
                        gain_error=model.gain_error,
                        max_power_w=120.0,  # 24 V, 5 A
                        update_s=_UPDATE_S,
                        offset_error_w=model.offset_error_w,
                    ),
                ),
                period_s=_UPDATE_S,
                notes=("the whole board, its radio, its carrier and what is plugged into it",),
            )
            reader = functools.partial(_read_w, link, model)
            return OpenRails(info, [reader], opened=opened.pop_all(), now_ns=now_ns)


def _read_w(link: Any, model: _Model) -> float:
    answering, power_w = _read(link)
    if answering is not model:
        raise ValueError(f"a {answering.name} answers where a {model.name} did")
    return power_w


def _read(link: Any) -> tuple[_Model, float]:
    """Model and power in W of one frame.

    Raises:
        OSError: the port went away.
        ValueError: no whole frame came, or it contradicts itself.
    """
    try:
        link.reset_input_buffer()  # what came too late for the last question answers no new one
    except termios.error as error:  # no OSError, though it is one
        raise OSError(*error.args) from error
    link.write(_ASK)
    frame = link.read(_FRAME.size)
    if len(frame) != _FRAME.size:
        raise ValueError(f"{len(frame)} bytes within {_TIMEOUT_S:g} s, expected {_FRAME.size}")
    number, volt, ampere, milliwatt, *_ = _FRAME.unpack(frame)
    power_w = milliwatt * 1e-3
    models = [model for model in _MODELS if number in model.numbers]
    for model in models:
        if model.agrees(volt, ampere, power_w):
            return model, power_w
    raise ValueError(
        f"a {models[0].name} whose {power_w:g} W are not its V x A ({volt}, {ampere})"
        if models
        else f"a frame of model {number:#06x}, expected a {', '.join(m.name for m in _MODELS)}"
    )
