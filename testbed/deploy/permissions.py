"""What a meter may not do before somebody allows it: as `leakwatt doctor` asks, per meter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from fedcore.plan import Choice

__all__ = ["NEEDS", "Needs", "needs_of"]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the client's service is given for a meter.

    Attributes:
        groups: it joins those that there are on the board.
        udev: rules for devices that only root may read.
        capabilities: of the kernel.
        extras: of the distribution.
    """

    groups: tuple[str, ...] = ()
    udev: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


_RAPL = (
    'SUBSYSTEM=="powercap", ACTION=="add|change", '
    "RUN+=\"/bin/sh -c 'chgrp leakwatt /sys%p/energy_uj && chmod g+r /sys%p/energy_uj'\""
)

NEEDS: Mapping[str, Needs] = {
    "auto": Needs(groups=("video",), udev=(_RAPL,)),
    "battery": Needs(),
    "combined": Needs(),  # what its meters need
    "csv-replay": Needs(),
    "hwmon": Needs(),
    "ina2xx": Needs(),
    "ina2xx-i2c": Needs(groups=("i2c",), extras=("i2c",)),
    "jetson": Needs(),
    "null": Needs(),
    "nvml": Needs(groups=("video", "render"), extras=("nvml",)),
    "perf": Needs(capabilities=("CAP_PERFMON",)),
    "rapl": Needs(udev=(_RAPL,)),
    "rpi5": Needs(groups=("video",)),
    "smart-plug": Needs(),
    "usb-meter": Needs(groups=("dialout",), extras=("serial",)),
}
"""Every meter that Leakwatt ships; a third party's is given nothing."""


def needs_of(meter: Choice) -> Needs:
    """Of a meter, and of those that it is made of."""
    names = [meter.name, *(part["name"] for part in meter.options.get("meters", ()))]
    parts = [NEEDS.get(name, Needs()) for name in names]
    return Needs(
        **{
            field.name: tuple(
                dict.fromkeys(one for part in parts for one in getattr(part, field.name))
            )
            for field in fields(Needs)
        }
    )
