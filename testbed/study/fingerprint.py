"""Which program makes a result: the digest of the sources that it follows from."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["CELL_SOURCES", "NETWORK_SOURCES", "fingerprint"]

_ROOT = Path(__file__).parents[2]

NETWORK_SOURCES = ("fedcore", "testbed/training.py", "testbed/study/material.py")
CELL_SOURCES = (
    *NETWORK_SOURCES,
    "attacker",
    "edge_client/vault.py",
    "testbed/baselines.py",
    "testbed/findings.py",
    "testbed/metrics",
    "testbed/scoring.py",
    "testbed/study/cells.py",
    "testbed/study/design.py",
    "testbed/study/updates.py",
)
"""Files and folders of Leakwatt. Drawing is not among them: a page may change without new cells."""


def fingerprint(sources: tuple[str, ...]) -> str:
    """SHA-256 over names and contents of Python files.

    Args:
        sources: files and folders, relative to where Leakwatt's packages lie.
    """
    found = hashlib.sha256()
    for source in sources:
        path = _ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(f"{file.relative_to(_ROOT).as_posix()}\0".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()
