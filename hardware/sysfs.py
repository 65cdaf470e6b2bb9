"""Reading the kernel's one-line files: once as text, or again and again through one descriptor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedcore.types import Missing

__all__ = ["HeldFile", "parse_cpus", "place_of", "read_line", "read_parsed"]

T = TypeVar("T")

_LONGEST = 4096


def read_line(path: Path) -> str:
    """The stripped text of a small file; a device tree's closing NUL is stripped too.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(_LONGEST).decode("utf-8", errors="replace").strip("\0 \n\t")


def read_parsed(path: Path, parse: Callable[[str], T]) -> T | Missing:
    """Read and parse a file, or say why not."""
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace").strip("\0 \n"))
    except OSError as error:
        return Missing(why=f"{path}: {error.strerror}")
    except (LookupError, ValueError) as error:
        return Missing(why=f"{path}: {error}")


def parse_cpus(text: str) -> list[int]:
    """The processors of a kernel list such as "0,18" or "0-3,8".

    Raises:
        ValueError: the text is not such a list.
    """
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def place_of(chip: Path) -> str:
    """Where a chip is on its bus ("1-0040"): that stays, the number of its hwmon folder may not."""
    device = chip / "device"
    return device.resolve().name if device.exists() else chip.name


class HeldFile:
    """A file that stays open: `pread` at 0 reads it anew at a twentieth of open, read, close.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_int(self) -> int:
        """The number in the file now.

        Raises:
            OSError: the kernel gives none (EIO, ENODATA: the device went away).
            ValueError: the text is not a number.
        """
        return int(os.pread(self._fd, 64, 0))

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
