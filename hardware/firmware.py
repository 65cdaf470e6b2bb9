"""Asking a Raspberry Pi's firmware: by its mailbox, else by the program `vcgencmd`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fedcore.types import Missing

__all__ = ["FAILURES", "MAILBOX", "Ask", "Ways", "find_ways", "parse_throttled", "read_throttled"]

Ask = Callable[[str], str]
"""Takes a command, gives the firmware's text; raises one of `FAILURES`."""

FAILURES = (OSError, ValueError, subprocess.SubprocessError)

MAILBOX = "dev/vcio"
_DEVICES = ("dev/vcio_gencmd", MAILBOX)
_TIMEOUT_S = 2.0
_GET_GENCMD_RESULT = 0x00030080
_VALUE_BYTES = 1024
_HEAD = struct.Struct("=6I")  # size, status, tag, bytes of value, bytes of request, error
_SUCCESS = 0x80000000
_IOCTL = 0xC0006400 | struct.calcsize("P") << 16  # _IOWR(100, 0, char *)

_THROTTLED = re.compile(r"throttled=(0x[0-9a-f]+)")
_BITS = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
}
_OCCURRED = 16
"""A bit so much higher stays set from the first occurrence since boot on."""


class Ways(NamedTuple):
    """How the firmware can be asked here, best first, and the devices this user may not open."""

    asks: tuple[Ask, ...]
    locked: tuple[Path, ...]


def find_ways(root: Path, opened: contextlib.ExitStack) -> Ways:
    """Look for the mailbox and the program; whether they answer shows when they are asked.

    Args:
        root: where the machine's file system begins.
        opened: closes the descriptors of the mailbox.
    """
    asks: list[Ask] = []
    locked: list[Path] = []
    for device in _DEVICES:
        path = root / device
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                locked.append(path)
            continue
        opened.callback(os.close, fd)
        asks.append(functools.partial(_ask_mailbox, fd))
    if program := shutil.which("vcgencmd", path=root / "usr/bin"):
        asks.append(functools.partial(_ask_program, program))
    return Ways(tuple(asks), tuple(locked))


def read_throttled(root: Path = Path("/")) -> Mapping[str, int] | Missing:
    """What holds the board back now (0 or 1 by name), and what has since it was started.

    Args:
        root: where the machine's file system begins.
    """
    why = "no Raspberry Pi's firmware answers"
    with contextlib.ExitStack() as opened:
        for ask in find_ways(root, opened).asks:
            try:
                return parse_throttled(ask("get_throttled"))
            except FAILURES as error:
                why = f"get_throttled: {error}"
    return Missing(why=why)


def parse_throttled(text: str) -> Mapping[str, int]:
    """The named bits of the firmware's word, in the order of the kernel's documentation.

    Raises:
        ValueError: it is no such word.
    """
    match = _THROTTLED.fullmatch(text.strip("\0 \n"))
    if match is None:
        raise ValueError(f"the firmware answered {text.strip()[:80]!r}")
    word = int(match[1], 16)
    now = {name: word >> bit & 1 for bit, name in _BITS.items()}
    since = {f"{name} has occurred": word >> bit + _OCCURRED & 1 for bit, name in _BITS.items()}
    return {**now, **since}


def _ask_mailbox(fd: int, command: str) -> str:
    """One property call.

    Raises:
        OSError: the kernel or the firmware refuses it.
    """
    size = _HEAD.size + _VALUE_BYTES + 4  # and the end tag, 0
    head = _HEAD.pack(size, 0, _GET_GENCMD_RESULT, _VALUE_BYTES, 0, 0)
    message = bytearray((head + f"{command}\0".encode()).ljust(size, b"\0"))
    fcntl.ioctl(fd, _IOCTL, message)
    status = _HEAD.unpack_from(message)[1]
    if status != _SUCCESS:
        raise OSError(errno.EIO, f"the firmware answered with status {status:#x}")
    text, _, _ = bytes(message[_HEAD.size : -4]).partition(b"\0\0")
    return text.replace(b"\0", b"\n").decode("ascii", errors="replace")


def _ask_program(program: str, command: str) -> str:
    done = subprocess.run(  # noqa: S603 - the firmware's own, with a fixed argument
        [program, command], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    return done.stdout + done.stderr
