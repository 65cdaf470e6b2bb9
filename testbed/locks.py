"""One process at a time in a folder; the system lets go of a lock however its process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from fedcore.errors import RunError

__all__ = ["hold"]


def hold(path: Path) -> IO[str]:
    """Hold a folder as long as the returned file is open; the file says which process does.

    Args:
        path: of the lock file in it; both are made when missing.

    Raises:
        RunError: another process holds it; the message has its number.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "of unknown number"
        file.close()
        raise RunError(
            f"{path.parent} is being run by another process ({holder}); wait for it or stop it, or "
            "take another folder"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
