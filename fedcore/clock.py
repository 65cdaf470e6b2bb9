"""Time: durations from the monotonic clock, dates from the wall clock, and the offset to a peer."""

from __future__ import annotations

import time
from dataclasses import dataclass

__all__ = ["ClockOffset", "Moment", "now"]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One instant on both clocks of this machine.

    Attributes:
        mono_ns: CLOCK_MONOTONIC in ns; the only one used for durations and joins on one machine.
        wall_ns: Unix time in ns; for people, and to relate machines.
    """

    mono_ns: int
    wall_ns: int


def now() -> Moment:
    """This instant on both clocks."""
    return Moment(mono_ns=time.monotonic_ns(), wall_ns=time.time_ns())


@dataclass(frozen=True, kw_only=True)
class ClockOffset:
    """How far the peer's wall clock is ahead of ours, and how sure that is.

    Attributes:
        offset_s: peer minus own wall clock, in s.
        uncertainty_s: half the round trip: the true offset lies within +- this, whatever the
            asymmetry of the path.
    """

    offset_s: float
    uncertainty_s: float

    @classmethod
    def from_echo(cls, *, sent_ns: int, peer_ns: int, received_ns: int) -> ClockOffset:
        """Cristian's algorithm (Cristian 1989, doi:10.1007/BF01784024) on one echoed heartbeat."""
        return cls(
            offset_s=(peer_ns - (sent_ns + received_ns) / 2) * 1e-9,
            uncertainty_s=(received_ns - sent_ns) / 2 * 1e-9,
        )

    def better_of(self, other: ClockOffset) -> ClockOffset:
        """The estimate with the shorter round trip."""
        return self if self.uncertainty_s <= other.uncertainty_s else other
