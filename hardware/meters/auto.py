"""The sensors that really read here, where they measure apart; where none does, every reason."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from dataclasses import dataclass

from fedcore.energy import Boundary
from fedcore.errors import FedcoreError
from fedcore.plan import Choice
from fedcore.strict import build
from hardware.meters.base import Clock, MeterInfo, NoSensorError, OpenMeter, Sensor
from hardware.meters.combined import combine
from hardware.meters.null import Null
from hardware.registry import METERS, sensors

__all__ = ["Auto", "open_sensor"]

_APART = frozenset({Boundary.CPU_PACKAGE, Boundary.GPU_BOARD})  # all others hold one another


@dataclass(frozen=True, kw_only=True)
class Auto(Sensor):
    """Opens what it finds, so that `info` is that of the sensor, or of `null` with the reasons.

    It is the first sensor that reads, and beside it those that measure what none of the earlier
    ones holds or is held by: a graphics card beside a processor, and nothing else.
    """

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Try every sensor with one reading. Finding none is no error: it opens a null meter."""
        reasons = []
        found: list[OpenMeter] = []
        with contextlib.ExitStack() as stack:
            for name in sensors():
                try:
                    meter = open_sensor(name, root=self.root, now_ns=now_ns)
                except FedcoreError as error:
                    why = error.what if isinstance(error, NoSensorError) else error
                    reasons.append(f"{name}: {why}")
                    continue
                if all(_are_apart(meter.info, other.info) for other in found):
                    found.append(stack.enter_context(meter))
                else:
                    meter.close()
            stack.pop_all()
        if found:
            return combine(found)
        return Null(why=f"no sensor reads here ({'; '.join(reasons)})").open(now_ns=now_ns)


def open_sensor(name: str, *, root: str, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
    """Open a sensor with its defaults and prove it by one reading: to exist is not to be readable.

    Raises:
        NoSensorError: it cannot be opened, or reads nothing.
        ConfigError: it takes no such root, or needs a package that is not installed.
    """
    opened = build(METERS, Choice(name=name, options={"root": root})).open(now_ns=now_ns)
    sample = opened.read()
    if not any(math.isfinite(value) for value in sample.values):
        opened.close()
        raise NoSensorError(sample.fault, fix="mend that; `dmesg` may say more")
    return opened


def _are_apart(one: MeterInfo, other: MeterInfo) -> bool:
    """Whether no joule can lie inside the measurements of both."""
    return all(
        a.boundary != b.boundary and {a.boundary, b.boundary} <= _APART
        for a, b in itertools.product(one.rails, other.rails)
    )
