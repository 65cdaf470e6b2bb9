"""Sealed records from a board's archive into the run's vault."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from edge_client.vault import collect
from fedcore.config import Experiment
from fedcore.errors import RunError
from fedcore.layout import RunFolder

__all__ = ["store"]


def store(archive: Path, *, client_id: str, experiment: Experiment, run: RunFolder) -> int:
    """Take this experiment's records of one client, and nothing else that a board may send.

    Returns:
        The number of records that were not there before.

    Raises:
        RunError: it is no archive.
        StorageError: the disk did not take a record.
    """
    folders = {(client_id, experiment.run_id(arm)) for arm in experiment.arms}
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        try:
            with tarfile.open(archive, "r:") as packed:
                for member in packed:
                    parts = PurePosixPath(member.name).parts
                    if parts[:2] in folders and len(parts) == 3 and (file := _file(packed, member)):
                        target = Path(scratch, *parts)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(file)
        except tarfile.TarError as error:
            raise RunError(f"{client_id}: what came is no archive of a vault ({error})") from error
        return collect([Path(scratch)], into=run.vault)


def _file(packed: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """The content of a plain file of a record's name; links and folders are passed over."""
    if not (member.isreg() and member.name.endswith(".sealed")):
        return None
    opened = packed.extractfile(member)
    return opened.read() if opened else None
