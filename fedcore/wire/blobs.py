"""Blobs in chunks: cut on one side, put together and checked on the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from fedcore.errors import Refusal, UpdateError
from protos.v1.types_pb2 import Chunk

__all__ = ["CHUNK_BYTES", "MESSAGE_BYTES", "BlobReceiver", "Chunk", "Piece", "chunks", "pieces"]

CHUNK_BYTES = 1 << 20  # of an upload, whose parts are made without protobuf
MESSAGE_BYTES = (
    1 << 18
)  # of what protobuf serialises: 1 MiB costs it several times as much per byte
_MAX_CHUNK_BYTES = 1 << 20


class Piece(NamedTuple):
    """What a `Chunk` says, without a copy of its data."""

    offset: int
    data: bytes | memoryview


def pieces(blob: bytes | memoryview) -> Iterator[Piece]:
    """Cut a blob into views of at most 1 MiB, in order."""
    view = memoryview(blob)
    for offset in range(0, len(view), CHUNK_BYTES):
        yield Piece(offset, view[offset : offset + CHUNK_BYTES])


def chunks(blob: bytes | memoryview) -> Iterator[Chunk]:
    """Cut a blob into messages of at most 1 MiB, in order."""
    for offset, data in pieces(blob):
        yield Chunk(offset=offset, data=bytes(data))


class BlobReceiver:
    """Checks the chunks of a blob whose size and hash were agreed beforehand, and hands them on.

    It keeps no more than what arrived since the last `settle`: where the bytes go is the caller's
    business, and a header alone costs nothing.

    Args:
        n_bytes: size that the header declared and the receiver accepted.
        sha256: of the whole, in hexadecimal.
    """

    def __init__(self, *, n_bytes: int, sha256: str) -> None:
        self._n_bytes = n_bytes
        self._arrived: list[bytes | memoryview] = []
        self._n_arrived = 0
        self._n_settled = 0
        self._sha256 = sha256
        self._hash = hashlib.sha256()

    def add(self, chunk: Chunk | Piece) -> None:
        """Take one chunk.

        Raises:
            UpdateError: out of order, empty, too large, or beyond the declared size.
        """
        data = chunk.data  # once: every access copies it out of a message
        if chunk.offset != self._n_arrived:
            raise UpdateError(
                Refusal.CHUNK_ORDER, f"chunk at offset {chunk.offset}, expected {self._n_arrived}"
            )
        if not 0 < len(data) <= _MAX_CHUNK_BYTES:
            raise UpdateError(
                Refusal.CHUNK_ORDER,
                f"a chunk of {len(data)} bytes; 1 to {_MAX_CHUNK_BYTES} allowed",
            )
        if self._n_arrived + len(data) > self._n_bytes:
            raise UpdateError(
                Refusal.SIZE_LIE, f"more than the {self._n_bytes} bytes that the header declared"
            )
        self._arrived.append(data)
        self._n_arrived += len(data)

    @property
    def n_unsettled(self) -> int:
        """Bytes that arrived since the last `settle`."""
        return self._n_arrived - self._n_settled

    def settle(self) -> list[bytes | memoryview]:
        """Hash what arrived since the last call, forget it, and return it in order.

        One thread may do this while another adds: hashing releases the interpreter's lock.
        """
        n_pieces = len(self._arrived)
        pieces, self._arrived[:n_pieces] = self._arrived[:n_pieces], []
        for piece in pieces:
            self._hash.update(piece)
            self._n_settled += len(piece)
        return pieces

    def finish(self) -> list[bytes | memoryview]:
        """The last pieces, once every byte has arrived and the hash of all of them fits.

        Raises:
            UpdateError: bytes are missing, or the hash is another.
        """
        pieces = self.settle()
        if self._n_settled != self._n_bytes:
            raise UpdateError(
                Refusal.TRUNCATED, f"{self._n_settled} of {self._n_bytes} bytes arrived"
            )
        if self._hash.hexdigest() != self._sha256:
            raise UpdateError(
                Refusal.WRONG_HASH,
                f"SHA-256 is {self._hash.hexdigest()}, the header says {self._sha256}",
            )
        return pieces
