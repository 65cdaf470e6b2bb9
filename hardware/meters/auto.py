"""The first sensor that really reads here; where none does, every reason."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from fedcore.errors import FedcoreError
from fedcore.plan import Choice
from fedcore.strict import build
from hardware.meters.base import Clock, NoSensorError, OpenMeter, Sensor
from hardware.meters.null import Null
from hardware.registry import METERS, sensors

__all__ = ["Auto", "open_sensor"]


@dataclass(frozen=True, kw_only=True)
class Auto(Sensor):
    """Opens what it finds, so that `info` is that of the sensor, or of `null` with the reasons."""

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Try every sensor with one reading. Finding none is no error: it opens a null meter."""
        reasons = []
        for name in sensors():
            try:
                return open_sensor(name, root=self.root, now_ns=now_ns)
            except NoSensorError as error:
                reasons.append(f"{name}: {error.what}")
            except FedcoreError as error:
                reasons.append(f"{name}: {error}")
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
        raise NoSensorError(sample.fault, fix="look into `dmesg`")
    return opened
