"""A pulse that a health check can feel: `python -m fedcore.health FILE [SECONDS]`.

A service touches the file whenever its work moves on: an aggregator at every tick, a client at
every answered heartbeat, an attacker whenever the tap or an attack makes a step.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fedcore.command_line import positive_s
from fedcore.errors import StorageError

__all__ = ["Pulse", "main"]

_STALE_AFTER_S = 60.0


class Pulse:
    """Touches a file.

    Args:
        file: to touch; None for a pulse that nobody feels.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def beat(self) -> None:
        """The work moved on.

        Raises:
            StorageError: the file cannot be touched.
        """
        if self._file is None:
            return
        try:
            self._file.touch()
        except OSError as error:
            raise StorageError(
                f"{self._file}: the pulse cannot be written ({error.strerror}); "
                "give --pulse a file in a folder that can be"
            ) from error


def main() -> int:
    """Return 0 if the file was touched in time, else 1 and one line."""
    parser = argparse.ArgumentParser(prog="python -m fedcore.health", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("seconds", type=positive_s, nargs="?", default=_STALE_AFTER_S)
    args = parser.parse_args()
    file: Path = args.file
    age_s = time.time() - file.stat().st_mtime if file.exists() else None
    if age_s is not None and age_s < args.seconds:
        return 0
    sys.stderr.write(f"{file}: {'missing' if age_s is None else f'{age_s:.0f} s old'}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
