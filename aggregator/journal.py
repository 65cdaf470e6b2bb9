"""Blobs by content: the updates that were accepted, byte for byte, and the artefacts of plans.

A blob appears under its SHA-256 complete or not at all: it is written under another name first.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fedcore.errors import RunError, StorageError

__all__ = ["BlobFolder", "IncomingBlob", "storing", "sync_folder"]

_PARTIAL = ".partial-"


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line.

    Raises:
        StorageError: the disk is full, read-only or broken.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror}; nothing accepted is lost: "
            "make room and start the same run again"
        ) from error


class BlobFolder:
    """Write-once files named by the SHA-256 of their content.

    Args:
        root: the folder; made when missing, and cleared of what a killed process left half done.
        survives_power_loss: whether a blob is forced to the disk before it counts as kept.
    """

    def __init__(self, root: Path, *, survives_power_loss: bool = False) -> None:
        self.root = root
        self.survives_power_loss = survives_power_loss
        with storing(root):
            root.mkdir(parents=True, exist_ok=True)
            for leftover in root.glob(f"{_PARTIAL}*"):
                leftover.unlink()

    def path(self, sha256: str) -> Path:
        """Where a blob lies or would lie."""
        return self.root / sha256

    def read(self, sha256: str) -> bytes:
        """A blob's content.

        Raises:
            RunError: it is not there.
        """
        try:
            return self.path(sha256).read_bytes()
        except OSError as error:
            raise RunError(f"{self.path(sha256)}: {error.strerror}; the run needs it") from error

    def put(self, blob: bytes) -> str:
        """Keep a blob and return its SHA-256.

        Raises:
            StorageError: the disk did not take it.
        """
        sha256 = hashlib.sha256(blob).hexdigest()
        if not self.path(sha256).exists():
            with contextlib.closing(self.incoming()) as incoming:
                incoming.write([blob])
                incoming.settle()
                incoming.keep(sha256)
        return sha256

    def incoming(self) -> IncomingBlob:
        """A blob that comes in pieces."""
        return IncomingBlob(self)


class IncomingBlob:
    """Written under a name of its own until `keep`; `close` drops what was not kept."""

    def __init__(self, folder: BlobFolder) -> None:
        self._folder = folder
        self._path = folder.root / f"{_PARTIAL}{uuid.uuid4().hex}"
        self._file: BinaryIO | None = None

    def write(self, pieces: list[bytes]) -> None:
        """Append pieces in order.

        Raises:
            StorageError: the disk did not take them.
        """
        with storing(self._path.parent):
            if self._file is None:
                self._file = self._path.open("x+b", buffering=0)
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[self._file.write(view) :]

    def view(self) -> memoryview:
        """What was written, read-only and without a copy; valid while somebody holds it.

        Raises:
            StorageError: the disk did not take it.
        """
        if self._file is None:
            return memoryview(b"")
        with storing(self._path.parent):
            return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))

    def settle(self) -> None:
        """Force the bytes to the disk where a blob has to survive a power loss.

        Raises:
            StorageError: the disk did not take them.
        """
        if self._file is not None and self._folder.survives_power_loss:
            with storing(self._path.parent):
                os.fsync(self._file.fileno())

    def keep(self, sha256: str) -> None:
        """Give the settled blob its final name.

        Raises:
            StorageError: the disk did not take it.
        """
        with storing(self._path.parent):
            self._path.rename(self._folder.path(sha256))
            if self._folder.survives_power_loss:
                sync_folder(self._folder.root)

    def close(self) -> None:
        """Close the file and remove it, unless it was kept."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
            self._file = None


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
