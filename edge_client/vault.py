"""The vault: what really was in each batch, sealed on the spot so that only the judge can read it.

A record is on the disk before the bytes that it explains leave the client. It lies at
`<vault>/<client>/<run>/<round>-<sha256 of those bytes>.sealed`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.errors import ConfigError, RunError, StorageError
from fedcore.ground_truth import VictimRecord, read_public_key, seal_record
from fedcore.layout import RunFolder
from fedcore.types import Ticket

__all__ = ["Truth", "Vault", "collect", "purge"]

_ID = r"[a-z0-9-]{1,63}"
_RECORD = re.compile(rf"{_ID}/{_ID}/[0-9]{{5,}}-[0-9a-f]{{64}}\.sealed")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A round's batches, copied before training or a defence could change them.

    Attributes:
        inputs: raw, in [0, 1], float32 [example, feature...], local steps one after the other.
        labels: int64 [example].
        encoded_input: what the network saw, float32 [time, example, feature...].
        batch_sizes: examples per local step.
    """

    inputs: np.ndarray
    labels: np.ndarray
    encoded_input: np.ndarray
    batch_sizes: tuple[int, ...]

    @classmethod
    def copy_of(
        cls,
        *,
        inputs: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        encoded: Sequence[np.ndarray],
    ) -> Truth:
        """Join the local steps' arrays, given one per step, into arrays of its own."""
        return cls(
            inputs=np.concatenate(inputs),  # always copies
            labels=np.concatenate(labels),
            encoded_input=np.concatenate(encoded, axis=1),
            batch_sizes=tuple(len(step) for step in labels),
        )


class Vault:
    """A folder of records sealed to one judge.

    Args:
        root: on a board a local folder; in a local cluster the run's vault.
        judge_key: file with the judge's public key.

    Raises:
        ConfigError: no public key there.
    """

    def __init__(self, root: Path, *, judge_key: Path) -> None:
        self._root = root
        try:
            self._judge = read_public_key(judge_key)
        except RunError as error:
            raise ConfigError(str(error)) from error

    def seal(self, truth: Truth, *, ticket: Ticket, sha256: str) -> Path:
        """Write the record of one update; either all of it or nothing is there afterwards.

        Raises:
            StorageError: the disk did not take it; the update must not be sent.
        """
        record = VictimRecord(
            ticket=ticket,
            sha256=sha256,
            inputs=truth.inputs,
            labels=truth.labels,
            encoded_input=truth.encoded_input,
            batch_sizes=truth.batch_sizes,
        )
        path = self._root / _path_in_vault(ticket, sha256)
        try:
            _write_whole(path, seal_record(record, to=self._judge))
        except OSError as error:
            unsent = f"start the client again: the update of {ticket} is not sent without its truth"
            raise StorageError.of(path, error, then=unsent) from error
        return path


def collect(sources: Iterable[Path], *, into: Path) -> int:
    """Copy the sealed records of boards' vaults into a run's vault; repeating it is harmless.

    Returns:
        The number of records that were not there before.

    Raises:
        RunError: a source is no folder.
        StorageError: the disk did not take a record.
    """
    n_new = 0
    for source in sources:
        for name in _records(source):
            target = into / name
            if target.exists():  # sealing twice gives other bytes with the same content
                continue
            try:
                _write_whole(target, (source / name).read_bytes())
            except OSError as error:
                raise StorageError.of(target, error, then="collect again") from error
            n_new += 1
    return n_new


def purge(root: Path, *, run_id: str | None = None) -> int:
    """Delete the sealed records of a vault, or those of one run.

    Returns:
        The number of deleted records.

    Raises:
        RunError: there is no such folder.
    """
    doomed = [name for name in _records(root) if run_id in (None, name.parts[1])]
    for name in doomed:
        (root / name).unlink()
    for folder in {(root / name).parent for name in doomed}:
        if not any(folder.iterdir()):
            folder.rmdir()
    return len(doomed)


def _records(root: Path) -> Iterator[Path]:
    """Names below a vault that are those of records; anything else there is left alone."""
    if not root.is_dir():
        raise RunError(f"{root}: no such vault")
    for path in sorted(root.glob("*/*/*.sealed")):
        name = path.relative_to(root)
        if _RECORD.fullmatch(name.as_posix()) and path.is_file() and not path.is_symlink():
            yield name


def _path_in_vault(ticket: Ticket, sha256: str) -> Path:
    """The layout has one home: a run's vault and a board's differ in their root only."""
    run = RunFolder(Path())
    return run.sealed_file(ticket, sha256).relative_to(run.vault)


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside, then rename: a reader never sees half a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
