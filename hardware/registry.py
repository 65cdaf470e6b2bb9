"""The meters by name. Listing them imports none."""

from __future__ import annotations

from fedcore.errors import PluginError
from fedcore.registry import Registry
from hardware.meters.base import Meter, Sensor

__all__ = ["METERS", "sensors"]

METERS: Registry[type[Meter]] = Registry(
    "meter",
    {
        "auto": "hardware.meters.auto:Auto",
        "battery": "hardware.meters.battery:Battery",
        "combined": "hardware.meters.combined:Combined",
        "csv-replay": "hardware.meters.csv_replay:CsvReplay",
        "hwmon": "hardware.meters.hwmon:Hwmon",
        "ina2xx": "hardware.meters.ina2xx:Ina2xx",
        "ina2xx-i2c": "hardware.meters.ina2xx:Ina2xxI2c",
        "jetson": "hardware.meters.jetson:Jetson",
        "null": "hardware.meters.null:Null",
        "nvml": "hardware.meters.nvml:Nvml",
        "perf": "hardware.meters.perf:Perf",
        "rapl": "hardware.meters.rapl:Rapl",
        "rpi5": "hardware.meters.rpi5:Rpi5",
        "smart-plug": "hardware.meters.smart_plug:SmartPlug",
        "usb-meter": "hardware.meters.usb_meter:UsbMeter",
    },
)

_FIRST = ("rapl", "perf")  # the same counters; powercap also says where they wrap


def sensors() -> list[str]:
    """Names of the meters that look for a sensor of this machine, in the order "auto" tries them.

    A third party's meter whose package is missing stays in the list: opening it tells why.
    """
    others = [name for name in METERS.names() if name not in (*_FIRST, "auto")]
    return [*_FIRST, *filter(_is_sensor, others)]


def _is_sensor(name: str) -> bool:
    try:
        return issubclass(METERS.get(name), Sensor)
    except PluginError:
        return True
