"""One upload on its way from the wire into the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from aggregator.journal import BlobFolder
from fedcore.wire.blobs import BlobReceiver, Piece
from fedcore.wire.messages import UploadHeader

__all__ = ["IncomingUpload", "off_the_loop"]

_SMALL_BYTES = 1 << 18  # below, a thread costs more than it saves
_WRITE_BYTES = 1 << 20  # a thread is woken for so much at once

T = TypeVar("T")


async def off_the_loop(work: Callable[[], T], *, n_bytes: int) -> T:
    """Do work on so many bytes: at once if it is little, else in a thread."""
    return work() if n_bytes <= _SMALL_BYTES else await asyncio.to_thread(work)


class IncomingUpload:
    """Collects chunks; a thread hashes and writes what came while the next chunks arrive.

    Args:
        header: what admission agreed to.
        journal: where the bytes go.
    """

    def __init__(self, header: UploadHeader, *, journal: BlobFolder) -> None:
        self._header = header
        self._receiver = BlobReceiver(n_bytes=header.n_bytes, sha256=header.sha256)
        self._journal = journal
        self._file = journal.incoming()
        self._whole: bytes | None = None  # a blob that came in one piece
        self._working: asyncio.Future[Any] | None = None  # the one thread that touches the file

    def add(self, piece: Piece) -> None:
        """Take the next piece.

        Raises:
            UpdateError: it does not fit (see `BlobReceiver.add`).
            StorageError: the disk did not take the ones before.
        """
        self._receiver.add(piece)
        if self._receiver.n_unsettled < _WRITE_BYTES:
            return
        if self._working is None or self._working.done():
            if self._working is not None:
                self._working.result()
            self._start(self._write_arrived)

    async def finish(self, check: Callable[[bytes | memoryview], T]) -> T:
        """Check the whole blob, and force it to the disk where the journal wants that.

        Args:
            check: is shown the blob, written and right in size and hash; may run in a thread.

        Returns:
            What `check` said.

        Raises:
            UpdateError: TRUNCATED or WRONG_HASH, or what `check` raises.
            StorageError: the disk did not take it.
        """
        if self._working is not None:
            await asyncio.shield(self._working)
        return await self._with_the_file(partial(self._finish, check))

    def keep(self) -> None:
        """Put the settled blob into the journal."""
        self._file.keep(self._header.sha256)
        if self._whole is not None:
            self._journal.remember(self._header.sha256, self._whole)

    async def close(self) -> None:
        """Drop what was not kept, also when the sender went away in between."""
        try:
            if self._working is not None:
                await asyncio.wait([self._working])
                self._working.exception()  # told to whoever called add or finish
        finally:
            self._file.close()

    async def _with_the_file(self, work: Callable[[], T]) -> T:
        """Like `off_the_loop`, but `close` waits for the thread, even if nobody else does."""
        if self._header.n_bytes <= _SMALL_BYTES:
            return work()
        return await asyncio.shield(self._start(work))

    def _start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        working = asyncio.get_running_loop().run_in_executor(None, work)
        self._working = working
        return working

    def _write_arrived(self) -> None:
        self._file.write(self._receiver.settle())

    def _finish(self, check: Callable[[bytes | memoryview], T]) -> T:
        found = check(self._write_last())
        self._file.settle()
        return found

    def _write_last(self) -> bytes | memoryview:
        """Write the rest, and show all of it: from memory if that is where it is, else the file."""
        pieces = self._receiver.finish()
        self._file.write(pieces)
        if len(pieces) == 1 and len(pieces[0]) == self._header.n_bytes:
            self._whole = bytes(pieces[0])  # out of the message that it came in
            return self._whole
        return self._file.view()
