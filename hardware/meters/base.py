"""The contract of a meter: options that open into something which is read and closed.

A meter is a frozen dataclass of options (its plugin); `open` gives an `OpenMeter`, which holds
file descriptors and says in `info` what is measured, how finely and how surely. Units are J, W
and s from here on: a meter converts where a value enters.
"""

from __future__ import annotations

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple

from fedcore.energy import Boundary
from fedcore.errors import ConfigError, MeterError

__all__ = [
    "Clock",
    "Meter",
    "MeterInfo",
    "NoSensorError",
    "OpenMeter",
    "OpenRails",
    "Rail",
    "Sample",
    "Sensor",
    "require_fraction",
]

Clock = Callable[[], int]
"""CLOCK_MONOTONIC in ns."""


@dataclass(frozen=True, kw_only=True)
class Rail:
    """One thing that a meter measures, and how well. A meter's rails of one boundary are disjoint.

    Attributes:
        name: "package-0", "VDD_IN", ...
        boundary: what lies inside the measurement.
        kind: a "counter" holds J since some start, a "power" W at an instant.
        resolution: smallest step, in J (counter) or W (power).
        gain_error: half-width of the 95 % interval of the scale factor, relative.
        max_power_w: it never draws more; a counter that says so was reset.
        update_s: how old a value can be.
        offset_error_w: half-width of the 95 % interval of a constant error, in W.
        wraps_at_j: where a counter starts again at 0; None where that is not known.
    """

    name: str
    boundary: Boundary
    kind: Literal["counter", "power"]
    resolution: float
    gain_error: float
    max_power_w: float
    update_s: float = 0.0
    offset_error_w: float = 0.0
    wraps_at_j: float | None = None


@dataclass(frozen=True, kw_only=True)
class MeterInfo:
    """What an open meter measures.

    Attributes:
        name: the meter's registered name.
        version: of its way of measuring; part of every reading's provenance.
        rails: empty when nothing measures here, for the reason in `absent`.
        period_s: reading more often than this tells nothing new.
        notes: what a reader of the numbers should know.
        flags: the same in a word, on every reading ("replayed").
        absent: why there are no rails, or "".
    """

    name: str
    version: str
    rails: tuple[Rail, ...]
    period_s: float
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    absent: str = ""

    def __post_init__(self) -> None:
        if bool(self.rails) == bool(self.absent):
            raise ConfigError(f"meter {self.name!r} has either rails or a reason for having none")

    @property
    def source(self) -> str:
        """Name and version, as readings carry them."""
        return f"{self.name} {self.version}"


class Sample(NamedTuple):
    """One reading of all rails.

    Attributes:
        mono_ns: middle of the reading on CLOCK_MONOTONIC, in ns.
        values: one per rail, in J (counter) or W (power); NaN where a rail could not be read.
        fault: why some value is NaN, or "".
    """

    mono_ns: int
    values: tuple[float, ...]
    fault: str = ""


class NoSensorError(MeterError):
    """A meter cannot be used here.

    Attributes:
        what: the reason, short.
        fix: what a person can do about it.
    """

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(f"{what}; {fix}")
        self.what = what
        self.fix = fix


class OpenMeter(ABC):
    """A meter whose files are open. Use it as a context manager."""

    def __init__(self, info: MeterInfo) -> None:
        self.info = info

    @abstractmethod
    def read(self) -> Sample:
        """Read all rails now. A rail that fails is NaN with a fault; this never raises for it."""

    def close(self) -> None:
        """Give back what `open` took; a second call does nothing."""
        return

    def __enter__(self) -> OpenMeter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class OpenRails(OpenMeter):
    """Rails that are read one after the other, each by a function of its own.

    Args:
        info: what they measure.
        readers: one per rail, giving J or W; OSError and ValueError make a NaN with its reason.
        opened: what is to be closed.
        now_ns: the clock.
    """

    def __init__(
        self,
        info: MeterInfo,
        readers: Sequence[Callable[[], float]],
        *,
        opened: contextlib.ExitStack,
        now_ns: Clock,
    ) -> None:
        super().__init__(info)
        self._readers = readers
        self._opened = opened
        self._now_ns = now_ns

    def read(self) -> Sample:
        """Read every rail; the time is the middle of it all."""
        values, fault = [], ""
        before_ns = self._now_ns()
        for rail, reader in zip(self.info.rails, self._readers, strict=True):
            try:
                values.append(reader())
            except (OSError, ValueError) as error:
                values.append(math.nan)
                fault = f"{rail.name}: {error}"
        return Sample((before_ns + self._now_ns()) // 2, tuple(values), fault)

    def close(self) -> None:
        """Close what was opened."""
        self._opened.close()


@dataclass(frozen=True, kw_only=True)
class Meter(ABC):
    """A way to measure; the fields of a subclass are its options."""

    @abstractmethod
    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Find the rails and hold their files open.

        Raises:
            NoSensorError: nothing can be read, with the reason and the fix.
        """


@dataclass(frozen=True, kw_only=True)
class Sensor(Meter):
    """A meter that finds sensors of this machine under its file system.

    Attributes:
        root: where that file system begins; a container mounts the host's elsewhere.
    """

    root: str = "/"


def require_fraction(value: float, *, name: str) -> None:
    """Refuse an option that is not a relative error.

    Raises:
        ConfigError: it lies outside [0, 1) or is not finite.
    """
    if not (math.isfinite(value) and 0 <= value < 1):
        raise ConfigError(f"{name} must lie in [0, 1); got {value}")
