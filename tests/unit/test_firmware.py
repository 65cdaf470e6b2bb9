"""A Raspberry Pi's throttle word, by a made-up mailbox and a made-up vcgencmd."""

from __future__ import annotations

import fcntl
import struct
from pathlib import Path

import pytest

from fedcore.types import Missing
from hardware.conditions import read_conditions
from hardware.firmware import parse_throttled, read_throttled

NOW = ["under-voltage", "clock capped", "throttled", "soft temperature limit"]


def up(text: str) -> list[str]:
    return [name for name, bit in parse_throttled(text).items() if bit]


@pytest.mark.parametrize("bit", range(4))
def test_each_bit_has_its_name_now_and_since_the_start(bit: int) -> None:
    assert up(f"throttled={1 << bit:#x}") == [NOW[bit]]
    assert up(f"throttled={1 << bit + 16:#x}\n") == [f"{NOW[bit]} has occurred"]


def test_a_calm_board_has_all_names_and_no_bit() -> None:
    assert set(parse_throttled("throttled=0x0").values()) == {0}
    assert len(parse_throttled("throttled=0x0")) == 8


@pytest.mark.parametrize(
    "text", ["error", "volts=0x1", "throttled=zz", "throttled=", "", "throttled=50005", "0x50005"]
)
def test_what_is_no_word_is_no_evidence(text: str) -> None:
    with pytest.raises(ValueError, match="the firmware answered"):
        parse_throttled(text)


def vcgencmd(root: Path, script: str) -> None:
    program = root / "usr/bin/vcgencmd"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_the_conditions_of_a_pi_hold_its_word_beside_the_kernels_alarms(tmp_path: Path) -> None:
    alarm = tmp_path / "sys/class/hwmon/hwmon1/in0_lcrit_alarm"
    alarm.parent.mkdir(parents=True)
    alarm.write_text("0\n")
    vcgencmd(tmp_path, '[ "$1" = get_throttled ] && echo throttled=0x20002')
    found = read_conditions(tmp_path).throttling
    assert not isinstance(found, Missing)
    assert {name for name, value in found.items() if value} == {
        "clock capped",
        "clock capped has occurred",
    }
    assert found["in0_lcrit_alarm"] == 0


def test_the_mailbox_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vcio").touch()
    vcgencmd(tmp_path, "echo throttled=0x0")

    def ioctl(fd: int, request: int, message: bytearray) -> int:
        assert bytes(message[24:]).startswith(b"get_throttled\0")
        message[24:] = b"throttled=0x1".ljust(len(message) - 24, b"\0")
        struct.pack_into("=I", message, 4, 0x80000000)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    found = read_throttled(tmp_path)
    assert not isinstance(found, Missing)
    assert found["under-voltage"] == 1


def test_a_firmware_that_does_not_answer_is_missing_with_its_reason(tmp_path: Path) -> None:
    found = read_throttled(tmp_path)
    assert found == Missing(why="no Raspberry Pi's firmware answers")
    vcgencmd(tmp_path, "echo 'VCHI initialization failed' >&2; exit 255")
    found = read_conditions(tmp_path).throttling
    assert isinstance(found, Missing)
    assert "VCHI initialization failed" in found.why
