"""The Raspberry Pi 5's power chip on a made-up mailbox and a made-up vcgencmd."""

from __future__ import annotations

import fcntl
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.energy import Boundary
from hardware.meters.base import NoSensorError
from hardware.meters.rpi5 import RAILS, Rpi5, parse_pmic

# Currents in A and voltages in V, in the order of RAILS.
LOAD = dict(
    zip(
        RAILS,
        [
            (0.0850, 3.7010),
            (0.0790, 3.3080),
            (0.1720, 1.8030),
            (0.2130, 1.1040),
            (0.0610, 0.6020),
            (0.1810, 1.1090),
            (0.3610, 0.8020),
            (5.9120, 0.8640),
            (0.0001, 3.3110),
            (0.0004, 3.3050),
            (0.0030, 0.8010),
            (0.0230, 5.0790),
        ],
        strict=True,
    )
)
LOAD_W = 6.8769991  # added by hand, V times A


def lines(load: dict[str, tuple[float, float]] = LOAD) -> list[str]:
    """Currents first; indices of a pair differ, as the firmware prints them."""
    currents = [
        f"{name:>12}_A current({i})={a:.8f}A" for i, (name, (a, _)) in enumerate(load.items())
    ]
    volts = [
        f"{name:>12}_V volt({i + 8})={v:.8f}V" for i, (name, (_, v)) in enumerate(load.items())
    ]
    return [*currents, *volts, "EXT5V_V volt(24)=5.06788000V", "BATT_V volt(25)=nanV"]


def test_a_sum_is_that_of_all_rails_whatever_their_order_and_indices() -> None:
    assert parse_pmic("\n".join(lines())) == pytest.approx(LOAD_W, abs=1e-6)
    assert parse_pmic("\n".join(reversed(lines()))) == pytest.approx(LOAD_W, abs=1e-6)
    old = "\n".join(lines()).replace("0V8_SW", "0V8_SYS")
    assert parse_pmic(old) == pytest.approx(LOAD_W, abs=1e-6)


@pytest.mark.parametrize("rail", RAILS)
@pytest.mark.parametrize("suffix", ["_A ", "_V "])
def test_a_sum_without_one_line_is_no_sum(rail: str, suffix: str) -> None:
    text = "\n".join(line for line in lines() if f"{rail}{suffix}" not in line)
    with pytest.raises(ValueError, match=rail):
        parse_pmic(text)


@pytest.mark.parametrize("garbage", ["nan", "inf", "1.2.3", "-1", "", "0x1"])
def test_a_value_that_is_no_number_is_no_value(garbage: str) -> None:
    text = "\n".join(lines()).replace("0.18100000A", f"{garbage}A")
    with pytest.raises(ValueError, match="1V1_SYS"):
        parse_pmic(text)


@pytest.mark.parametrize("line", ["NO_VOLT_A current(9)=0.5A", "NEW_A current(9)=zzA"])
def test_a_current_without_its_voltage_is_power_that_the_sum_would_lack(line: str) -> None:
    with pytest.raises(ValueError, match=line.partition("_A")[0]):
        parse_pmic("\n".join([*lines(), line]))


@pytest.mark.parametrize("line", ["BAD_V volt(1)=1.2.3V", "BAD_V volt(1)=3.0A", "noise", "a=b"])
def test_what_names_no_current_changes_nothing(line: str) -> None:
    assert parse_pmic("\n".join([*lines(), line])) == pytest.approx(LOAD_W, abs=1e-6)


def test_a_rail_of_newer_firmware_is_added() -> None:
    more = [*lines(), "NEW_A current(30)=0.5A", "NEW_V volt(31)=2.0V"]
    assert parse_pmic("\n".join(more)) == pytest.approx(LOAD_W + 1, abs=1e-6)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    return tmp_path


def vcgencmd(board: Path, script: str) -> Path:
    program = board / "usr/bin/vcgencmd"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def says(text: str) -> str:
    return f"cat <<'END'\n{text}\nEND"


Answer = Callable[[], bytes | OSError]


@pytest.fixture
def mailbox(board: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """The kernel's side of the property call, which checks the request as the firmware does."""
    (board / "dev").mkdir()
    (board / "dev/vcio").touch()

    def install(answer: Answer) -> None:
        def ioctl(fd: int, request: int, message: bytearray) -> int:
            assert Path(f"/proc/self/fd/{fd}").readlink() == board / "dev/vcio"
            assert request == {8: 0xC0086400, 4: 0xC0046400}[struct.calcsize("P")]
            size, status, tag, room, _, _ = struct.unpack_from("=6I", message)
            assert (size, status, tag) == (len(message), 0, 0x30080)
            assert bytes(message[24:]).startswith(b"pmic_read_adc\0")
            assert message[-4:] == b"\0\0\0\0"
            said = answer()
            if isinstance(said, OSError):
                raise said
            assert len(said) <= room
            message[24 : 24 + room] = said.ljust(room, b"\0")
            struct.pack_into("=I", message, 4, 0x80000000)
            return 0

        monkeypatch.setattr(fcntl, "ioctl", ioctl)

    return install


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_the_mailbox_is_asked_and_both_separators_are_read(
    board: Path, mailbox: Callable[[Answer], None], separator: str
) -> None:
    mailbox(lambda: separator.join(line.strip() for line in lines()).encode())
    with Rpi5(root=str(board)).open() as meter:
        sample = meter.read()
        assert [rail.boundary for rail in meter.info.rails] == [
            Boundary.RAILS_SUM,
            Boundary.BOARD_DC_INPUT,
        ]
        assert sample.values == pytest.approx((LOAD_W, 1.139 * LOAD_W + 0.62), abs=1e-3)
        assert meter.info.flags == ("literature(input)",)
        assert meter.info.period_s >= 0.1


def test_the_program_answers_where_the_mailbox_does_not(
    board: Path, mailbox: Callable[[Answer], None]
) -> None:
    mailbox(lambda: OSError(25, "Inappropriate ioctl for device"))
    vcgencmd(board, says("\n".join(lines())))
    with Rpi5(root=str(board), calibration="").open() as meter:
        assert meter.read().values == pytest.approx((LOAD_W,), abs=1e-6)
        assert meter.info.flags == ()


def test_a_reading_that_fails_later_is_missing_with_its_reason(
    board: Path, mailbox: Callable[[Answer], None]
) -> None:
    answers = iter(
        [
            "\n".join(lines()).encode(),
            "\n".join(lines()[1:]).encode(),
            OSError(5, "Input/output error"),
            b'error=1 error_msg="Command not registered"',
            b"",
            "\n".join(lines()).encode(),
        ]
    )
    mailbox(lambda: next(answers))
    with Rpi5(root=str(board)).open() as meter:
        for why in ("3V7_WL_SW", "Input/output error", "not registered", "answered ''"):
            sample = meter.read()
            assert all(map(math.isnan, sample.values))
            assert why in sample.fault
        assert meter.read().fault == ""


def test_an_older_board_is_told_what_to_wire(board: Path) -> None:
    (board / "proc/device-tree/model").write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    vcgencmd(board, says('error=1 error_msg="Command not registered"'))
    with pytest.raises(NoSensorError, match="not registered") as caught:
        Rpi5(root=str(board)).open()
    for thing in ("INA226", "UM25C", "plug", "modelled"):
        assert thing in caught.value.fix


def test_who_is_not_in_the_group_is_told_to_join_it(board: Path) -> None:
    vcgencmd(board, 'echo "Can\'t open device file: /dev/vcio" >&2; exit 1')
    with pytest.raises(NoSensorError, match="Can't open") as caught:
        Rpi5(root=str(board)).open()
    assert caught.value.fix == "run `sudo usermod -aG video $USER` and log in again"


def test_a_program_that_hangs_or_is_not_there_gives_one_line(
    board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoSensorError, match="neither"):
        Rpi5(root=str(board)).open()
    vcgencmd(board, "exec sleep 60")
    monkeypatch.setattr("hardware.firmware._TIMEOUT_S", 0.2)
    with pytest.raises(NoSensorError, match="timed out"):
        Rpi5(root=str(board)).open()


def test_the_literature_is_marked_as_another_boards_on_another_board(board: Path) -> None:
    (board / "proc/device-tree/model").write_text("Raspberry Pi 500 Rev 1.0\0")
    vcgencmd(board, says("\n".join(lines())))
    with Rpi5(root=str(board)).open() as meter:
        assert meter.info.flags == ("literature(input)", "other-board(input)")
