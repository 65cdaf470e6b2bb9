"""How hot and how fast a machine is, and whether it holds itself back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedcore.types import Missing

__all__ = ["Conditions"]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """A machine at one instant.

    Attributes:
        temperatures_c: by thermal zone.
        throttling: evidence by source: event counts since boot, alarms (0 or 1), cooling states;
            of a Raspberry Pi also what its firmware names, now and "has occurred" since boot.
        clock_hz: lowest and highest clock of its processors.
    """

    temperatures_c: Mapping[str, float] | Missing
    throttling: Mapping[str, int] | Missing
    clock_hz: tuple[int, int] | Missing

    @property
    def hottest_c(self) -> float | Missing:
        """Of the zones."""
        found = self.temperatures_c
        return found if isinstance(found, Missing) else max(found.values())
