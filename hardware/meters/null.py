"""No meter: every window's measured energy is missing, for a stated reason."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fedcore.errors import ConfigError
from hardware.meters.base import Clock, Meter, MeterInfo, OpenMeter, Sample

__all__ = ["Null"]


@dataclass(frozen=True, kw_only=True)
class Null(Meter):
    """Measures nothing, and says so.

    Attributes:
        why: the reason that takes the place of every reading.
    """

    why: str = "the meter is 'null': nothing was to be measured"

    def __post_init__(self) -> None:
        if not self.why:
            raise ConfigError("why must say why nothing is measured; got ''")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Open nothing."""
        return _OpenNull(self.why, now_ns)


class _OpenNull(OpenMeter):
    def __init__(self, why: str, now_ns: Clock) -> None:
        super().__init__(
            MeterInfo(
                name="null",
                version="1",
                rails=(),
                period_s=0.0,
                absent=why,
            )
        )
        self._now_ns = now_ns

    def read(self) -> Sample:
        return Sample(self._now_ns(), ())
