"""What happened to the machine's clocks during a window: a step of the wall clock, a suspension.

Windows live on CLOCK_MONOTONIC, which neither sees. Adjustment by NTP's slewing moves the
monotonic and the wall clock alike, so their difference changes by steps alone; that of BOOTTIME
and MONOTONIC grows by the time the machine was suspended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["ClockOffsets", "clock_flags", "read_offsets"]

_TOLERANCE_NS = 20_000_000  # our choice: a busy machine parts two neighbouring reads by less
_TRIES = 3


class ClockOffsets(NamedTuple):
    """How far two clocks are ahead of CLOCK_MONOTONIC, in ns."""

    wall_ns: int
    boot_ns: int


def read_offsets() -> ClockOffsets:
    """Read both now."""
    return ClockOffsets(wall_ns=_ahead_ns(time.time_ns), boot_ns=_ahead_ns(_boot_ns))


def clock_flags(start: ClockOffsets, end: ClockOffsets) -> tuple[str, ...]:
    """Flags of a window by the offsets at its ends: "clock-step", "suspended", both or none.

    A suspension alone leaves MONOTONIC behind both other clocks by the same time: no step.
    """
    slept_ns = end.boot_ns - start.boot_ns
    stepped_ns = end.wall_ns - start.wall_ns - slept_ns
    return (
        *(["clock-step"] if abs(stepped_ns) > _TOLERANCE_NS else []),
        *(["suspended"] if slept_ns > _TOLERANCE_NS else []),
    )


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _ahead_ns(clock_ns: Callable[[], int]) -> int:
    """The offset by the closest of a few reads: a process may be interrupted within one."""
    reads = []
    for _ in range(_TRIES):
        before_ns, there_ns, after_ns = time.monotonic_ns(), clock_ns(), time.monotonic_ns()
        reads.append((after_ns - before_ns, there_ns - (before_ns + after_ns) // 2))
    return min(reads)[1]
