"""A USB meter at the far end of a real pty: its frame, and what a radio link does to it."""

from __future__ import annotations

import math
import os
import pty
import struct
import sys
import threading
import tty
from collections.abc import Callable, Iterator

import pytest

from hardware.meters.base import NoSensorError, OpenMeter
from hardware.meters.usb_meter import UsbMeter

pytest.importorskip("serial")

UM24C, UM25C, UM34C = 0x0963, 0x09C9, 0x0D4C


def frame(model: int, volt: int, ampere: int, milliwatt: int) -> bytes:
    """130 bytes in the meter's own units, the rest of the display filled with something."""
    head = struct.pack(">HHHL", model, volt, ampere, milliwatt)
    groups = struct.pack(">20L", *range(1000, 1020))
    tail = struct.pack(">HHHLLHLHHHLHBB", 270, 14, 3, 55, 66, 10, 77, 0, 5, 6, 88, 2, 0, 1)
    body = head + struct.pack(">HHH", 28, 82, 0) + groups + tail
    return (body + bytes(130))[:130]


class Far:
    """The meter: answers each question with the next of its answers, then hangs up."""

    def __init__(self, *answers: bytes) -> None:
        self._far, near = pty.openpty()
        tty.setraw(near)
        self.port, self._near = os.ttyname(near), near
        self._answers = answers
        self.questions: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            self.questions.append(os.read(self._far, 1))
            os.write(self._far, answer)

    def unplug(self) -> None:
        os.close(self._near)
        os.close(self._far)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Far]]:
    monkeypatch.setattr("hardware.meters.usb_meter._TIMEOUT_S", 0.5)
    made: list[Far] = []

    def make(*answers: bytes) -> Far:
        made.append(Far(*answers))
        return made[-1]

    yield make
    for one in made:
        try:
            one.unplug()
        except OSError:
            continue  # the test did


GOOD = frame(UM25C, 5103, 8921, 4552)


@pytest.mark.parametrize(
    ("name", "answer", "watt"),
    [
        ("UM25C", GOOD, 4.552),
        ("UM25C", frame(UM24C, 5103, 8921, 4552), 4.552),
        ("UM24C", frame(UM24C, 510, 892, 4549), 4.549),
        ("UM34C", frame(UM34C, 510, 892, 4549), 4.549),
    ],
)
def test_each_model_is_read_in_its_own_scales(
    far: Callable[..., Far], name: str, answer: bytes, watt: float
) -> None:
    meter_end = far(answer, answer)
    with UsbMeter(port=meter_end.port).open() as meter:
        (rail,) = meter.info.rails
        assert (rail.name, rail.boundary.value, rail.kind) == (name, "board-dc-input", "power")
        assert meter.read().values == pytest.approx((watt,))
        assert meter.info.period_s == 0.5
        assert "radio" in meter.info.notes[0]
    assert meter_end.questions == [b"\xf0", b"\xf0"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (GOOD[:77], "77 bytes within"),
        (b"", "0 bytes within"),
        (b"\xff" * 130, "model 0xffff"),
        (b"\0" + GOOD[:-1], "model 0x0009"),
        (frame(UM25C, 5103, 8921, 45520), "a UM25C whose 45.52 W are not its V x A"),
        (frame(UM24C, 510, 892, 4549), "a UM24C answers where a UM25C did"),
    ],
)
def test_a_bad_frame_is_missing_with_its_reason_and_the_next_good_one_is_read(
    far: Callable[..., Far], answer: bytes, why: str
) -> None:
    with UsbMeter(port=far(GOOD, answer, GOOD).port).open() as meter:
        sample = meter.read()
        assert math.isnan(sample.values[0])
        assert why in sample.fault
        assert meter.read().values == pytest.approx((4.552,))


def test_bytes_that_come_too_late_answer_no_later_question(far: Callable[..., Far]) -> None:
    with UsbMeter(port=far(GOOD, GOOD + b"late", GOOD).port).open() as meter:
        for _ in range(2):
            assert meter.read().values == pytest.approx((4.552,))


def test_an_unplugged_meter_is_missing(far: Callable[..., Far]) -> None:
    meter_end = far(GOOD)
    meter: OpenMeter
    with UsbMeter(port=meter_end.port).open() as meter:
        meter_end.unplug()
        for _ in range(2):
            sample = meter.read()
            assert math.isnan(sample.values[0])
            assert sample.fault.startswith("UM25C: ")


def test_no_port_and_no_meter_give_one_line_with_the_fix(far: Callable[..., Far]) -> None:
    with pytest.raises(NoSensorError, match="rfcomm bind"):
        UsbMeter(port="/dev/there-is-no-such-port").open()
    with pytest.raises(NoSensorError, match=r"0 bytes within.*switch the meter on"):
        UsbMeter(port=far().port).open()


def test_without_the_package_a_person_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(NoSensorError, match=r"pip install 'leakwatt\[serial\]'"):
        UsbMeter(port="/dev/ttyUSB0").open()
