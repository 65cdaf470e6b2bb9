"""What plans name by its content, downloaded once: checked, and kept where there is a folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from fedcore.errors import Refusal, UpdateError

__all__ = ["ArtefactCache", "checked"]

log = logging.getLogger(__name__)


def checked(blob: bytes, *, sha256: str, what: str) -> bytes:
    """The blob, if it is what its name says.

    Raises:
        UpdateError: it is not.
    """
    found = hashlib.sha256(blob).hexdigest()
    if found != sha256:
        raise UpdateError(
            Refusal.WRONG_HASH, f"the {what} that came have SHA-256 {found}, the plan says {sha256}"
        )
    return blob


class ArtefactCache:
    """Artefacts that stay the same from round to round.

    Args:
        folder: keeps them for the next start; None keeps them in memory alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[str, bytes] = {}

    def get(self, sha256: str, download: Callable[[str], bytes]) -> bytes:
        """The artefact, from memory, from the folder, or downloaded.

        Args:
            sha256: of its content.
            download: gets it, unchecked.

        Raises:
            UpdateError: what came is something else.
        """
        if sha256 not in self._held:
            self._held[sha256] = self._kept(sha256) or self._downloaded(sha256, download)
        return self._held[sha256]

    def _kept(self, sha256: str) -> bytes | None:
        """What the folder has; a file that was damaged is as good as none."""
        try:
            blob = (self._folder / sha256).read_bytes() if self._folder else b""
        except OSError:
            return None
        return blob if hashlib.sha256(blob).hexdigest() == sha256 else None

    def _downloaded(self, sha256: str, download: Callable[[str], bytes]) -> bytes:
        blob = checked(download(sha256), sha256=sha256, what="graphs")
        if self._folder is None:
            return blob
        half = self._folder / f"{sha256}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            half.write_bytes(blob)
            half.replace(self._folder / sha256)
        except OSError as error:  # a cache that cannot be written costs a download, no more
            log.warning("not cached", extra={"folder": str(self._folder), "why": str(error)})
        return blob
