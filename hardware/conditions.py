"""Temperatures, evidence of throttling and clocks of the machine now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedcore.conditions import Conditions
from fedcore.types import Missing
from hardware.firmware import read_throttled
from hardware.sysfs import read_parsed

__all__ = ["read_conditions"]

_LOWEST_C = -55.0  # below it a thermal zone says that its engine is off (Jetson: -256)


def read_conditions(root: Path = Path("/")) -> Conditions:
    """Look now; what is not there is missing, with its reason.

    Args:
        root: where the machine's file system begins.
    """
    return Conditions(
        temperatures_c=_temperatures(root / "sys/class/thermal"),
        throttling=_throttling(root),
        clock_hz=_clock_hz(root / "sys/devices/system/cpu/cpufreq"),
    )


def _temperatures(thermal: Path) -> Mapping[str, float] | Missing:
    found = {}
    for zone in sorted(thermal.glob("thermal_zone*")):
        kind, millidegrees = read_parsed(zone / "type", str), read_parsed(zone / "temp", int)
        if isinstance(kind, Missing) or isinstance(millidegrees, Missing):
            continue  # an engine that sleeps has no temperature (EAGAIN)
        if millidegrees > _LOWEST_C * 1000:
            found[f"{zone.name} {kind}"] = millidegrees / 1000
    return found or Missing(why=f"no readable thermal zones in {thermal}")


def _throttling(root: Path) -> Mapping[str, int] | Missing:
    patterns = (
        "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count",
        "sys/class/hwmon/hwmon*/in0_lcrit_alarm",  # under-voltage of a Raspberry Pi
        "sys/class/hwmon/hwmon*/oc*_event_cnt",  # over-current events of a Jetson
    )
    paths = [path for pattern in patterns for path in root.glob(pattern)]
    for device in root.glob("sys/class/thermal/cooling_device*"):
        kind = read_parsed(device / "type", str)
        if not isinstance(kind, Missing) and "throttle" in kind:
            paths.append(device / "cur_state")
    counts: dict[str, int] = {}
    for path in paths:
        count = read_parsed(path, int)
        if not isinstance(count, Missing):
            name = path.parent.name if path.name == "cur_state" else path.name
            counts[name] = counts.get(name, 0) + count
    said = read_throttled(root)
    if isinstance(said, Missing):
        return counts or Missing(why=f"the kernel shows no throttle counters, and {said.why}")
    return {**counts, **said}


def _clock_hz(policies: Path) -> tuple[int, int] | Missing:
    clocks = [
        khz * 1000
        for path in policies.glob("policy*/scaling_cur_freq")
        if not isinstance(khz := read_parsed(path, int), Missing)
    ]
    return (min(clocks), max(clocks)) if clocks else Missing(why=f"no clock in {policies}")
