"""Many victims in portions, each kept on disk as soon as it is done: a long attack can be resumed.

A victim's starts depend on nothing but its ticket, and no row of a search on another, so portions
find what one search over all victims finds; sums over other rows may differ in their last bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from attacker.attacks.base import Progress, tell_part
from fedcore.reconstructions import read_reconstructions, request_behind, write_reconstructions
from fedcore.strict import digest
from fedcore.types import Knowledge, Observation, Reconstruction

__all__ = ["ReconstructPortion", "in_portions"]

log = logging.getLogger(__name__)

ReconstructPortion = Callable[
    [Sequence[Observation], Sequence[Knowledge], Progress], Sequence[Reconstruction]
]
"""Attacks some of the victims: (observations, what was told about each, progress) -> answers."""

_ROWS_AT_ONCE = 32  # victims times restarts; more in one search are hardly quicker


def in_portions(
    reconstruct: ReconstructPortion,
    seen: Sequence[Observation],
    known: Sequence[Knowledge],
    *,
    restarts: int,
    folder: Path,
    request: str,
    progress: Progress,
) -> list[Reconstruction]:
    """Attack portion after portion, and none that an interrupted attack had done already.

    Args:
        reconstruct: attacks one portion.
        seen: all victims.
        known: what was told about each.
        restarts: starts per victim.
        folder: for finished portions.
        request: names everything else that answers follow from; another one's are not taken.
        progress: told of all portions together.

    Returns:
        One answer per observation, in their order.

    Raises:
        StorageError: the disk did not take a portion.
    """
    size = max(1, _ROWS_AT_ONCE // max(1, restarts))
    firsts = range(0, len(seen), size)
    answers: list[Reconstruction] = []
    for number, first in enumerate(firsts):
        some = seen[first : first + size]
        own_folder = folder / str(number)
        own_request = digest((request, [(one.ticket, one.sha256) for one in some]))
        if request_behind(own_folder) == own_request:
            log.info("attacked before", extra={"portion": number, "of": len(firsts)})
            answers += read_reconstructions(own_folder)
            continue
        tell = partial(tell_part, progress, number, len(firsts))
        found = reconstruct(some, known[first : first + size], tell)
        write_reconstructions(own_folder, found, request=own_request)
        answers += found
    return answers
