"""Which machine this is, without saying anything about it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedcore.types import Missing

__all__ = ["host_id"]


def host_id(root: Path = Path("/")) -> str | Missing:
    """The same for all that run on one machine, containers too, until it is started anew.

    Args:
        root: where the machine's file system begins.
    """
    path = root / "proc/sys/kernel/random/boot_id"
    try:
        return hashlib.sha256(path.read_bytes().strip()).hexdigest()[:16]
    except OSError as error:
        return Missing(why=f"{path}: {error.strerror}")
