"""Blobs by content: the updates that were accepted, byte for byte, and the artefacts of plans.

A blob appears under its SHA-256 complete or not at all: it is written under another name first.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedcore.errors import RunError, StorageError

__all__ = ["BlobFolder", "IncomingBlob", "storing", "sync_folder"]

_PARTIAL = ".partial-"
_SMALL_BYTES = 1 << 18  # what is kept in memory, too: it is read again within its round
_N_RECENT = 16


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line.

    Raises:
        StorageError: the disk is full, read-only or broken.
    """
    try:
        yield
    except OSError as error:
        again = "start the same run again (nothing accepted is lost)"
        raise StorageError.of(path, error, then=again) from error


class BlobFolder:
    """Write-once files named by the SHA-256 of their content.

    Args:
        root: the folder; made when missing, and cleared of what a killed process left half done.
        survives_power_loss: whether a blob is forced to the disk before it counts as kept.
    """

    def __init__(self, root: Path, *, survives_power_loss: bool = False) -> None:
        self.root = root
        self.survives_power_loss = survives_power_loss
        self._recent: dict[str, bytes] = {}
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
        if (blob := self._recent.get(sha256)) is not None:
            return blob
        with self._needing(sha256) as path:
            return path.read_bytes()

    def read_if_small(self, sha256: str, *, n_bytes: int) -> bytes | None:
        """A blob's content, if it has at most so many bytes.

        Raises:
            RunError: it is not there.
        """
        if sha256 not in self._recent:
            with self._needing(sha256) as path:
                if path.stat().st_size > n_bytes:
                    return None
        blob = self.read(sha256)
        return blob if len(blob) <= n_bytes else None

    def remember(self, sha256: str, blob: bytes) -> None:
        """Keep a small blob in memory for a while, once it lies in the folder."""
        if len(self._recent) >= _N_RECENT:
            self._recent = {}
        if len(blob) <= _SMALL_BYTES:
            self._recent[sha256] = blob

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
        self.remember(sha256, blob)
        return sha256

    def incoming(self) -> IncomingBlob:
        """A blob that comes in pieces."""
        return IncomingBlob(self)

    @contextlib.contextmanager
    def _needing(self, sha256: str) -> Iterator[Path]:
        path = self.path(sha256)
        try:
            yield path
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}; the run needs it") from error


class IncomingBlob:
    """Written under a name of its own until `keep`; `close` drops what was not kept."""

    def __init__(self, folder: BlobFolder) -> None:
        self._folder = folder
        self._path = folder.root / f"{_PARTIAL}{uuid.uuid4().hex}"
        self._file: int | None = None
        self._is_kept = False

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append pieces in order.

        Raises:
            StorageError: the disk did not take them.
        """
        with storing(self._path.parent):
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(self._file, view) :]

    def view(self) -> memoryview:
        """What was written, read-only and without a copy; valid while somebody holds it.

        Raises:
            StorageError: the disk did not take it.
        """
        if self._file is None:
            return memoryview(b"")
        with storing(self._path.parent):
            return memoryview(mmap.mmap(self._file, 0, access=mmap.ACCESS_READ))

    def settle(self) -> None:
        """Force the bytes to the disk where a blob has to survive a power loss.

        Raises:
            StorageError: the disk did not take them.
        """
        if self._file is not None and self._folder.survives_power_loss:
            with storing(self._path.parent):
                os.fsync(self._file)

    def keep(self, sha256: str) -> None:
        """Give the settled blob its final name.

        Raises:
            StorageError: the disk did not take it.
        """
        with storing(self._path.parent):
            self._path.rename(self._folder.path(sha256))
            self._is_kept = True
            if self._folder.survives_power_loss:
                sync_folder(self._folder.root)

    def close(self) -> None:
        """Close the file and remove it, unless it was kept."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            if not self._is_kept:
                self._path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
