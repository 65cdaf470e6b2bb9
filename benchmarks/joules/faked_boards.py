"""Faked kernel trees of boards, in the shape of real captures (numbers changed)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BOARDS", "FakedBoard", "write_files"]


@dataclass(frozen=True)
class FakedBoard:
    """A tree and what it draws.

    Attributes:
        meter: that finds it.
        files: path below the root -> text.
        total_w: what the meter has to read, in W (JetPack 4 gives whole mW per rail); for a
            counter J at the first reading.
        boundary: of that.
    """

    name: str
    meter: str
    files: Mapping[str, str]
    total_w: float
    boundary: str

    def write(self, root: Path) -> None:
        """Put the tree under a root."""
        write_files(root, self.files)


def write_files(root: Path, files: Mapping[str, str]) -> None:
    """Write texts with a closing newline, as the kernel does."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def _tree(*names: str, model: str = "") -> dict[str, str]:
    return {
        "proc/device-tree/compatible": "\0".join(names) + "\0",
        "proc/device-tree/model": f"{model}\0",
    }


def _iio(chip: str, rails: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """An INA3221 under JetPack 4: label -> mV, mA; the driver gives mW as well."""
    files = {}
    for number, (label, (mv, ma)) in enumerate(rails.items()):
        folder = f"sys/bus/i2c/drivers/ina3221x/{chip}/iio:device0"
        files |= {
            f"{folder}/rail_name_{number}": label,
            f"{folder}/in_voltage{number}_input": str(mv),
            f"{folder}/in_current{number}_input": str(ma),
            f"{folder}/in_power{number}_input": str(mv * ma // 1000),
            f"{folder}/crit_current_limit_{number}": "32760 ma",
        }
    return files


def _hwmon(number: int, rails: Mapping[str, tuple[int, int]], *, micro_ohm: int) -> dict[str, str]:
    """An INA3221 under JetPack 5 and later: label -> mV, mA; in7 and curr4 are sums of shunts."""
    folder = f"sys/class/hwmon/hwmon{number}"
    files = {f"{folder}/name": "ina3221"}
    for channel, (label, (mv, ma)) in enumerate(rails.items(), start=1):
        files |= {
            f"{folder}/in{channel}_label": label,
            f"{folder}/in{channel}_input": str(mv),
            f"{folder}/curr{channel}_input": str(ma),
            f"{folder}/shunt{channel}_resistor": str(micro_ohm),
            f"{folder}/in{channel + 3}_input": str(ma * micro_ohm // 1000),
        }
    total_ma = sum(ma for _, ma in rails.values())
    return files | {
        f"{folder}/in7_label": "sum of shunt voltages",
        f"{folder}/in7_input": str(total_ma * micro_ohm // 1000),
        f"{folder}/curr4_input": str(total_ma),
    }


def _rapl(zones: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """Powercap zones: folder -> name, uJ."""
    files = {}
    for zone, (name, uj) in zones.items():
        files |= {
            f"sys/class/powercap/{zone}/name": name,
            f"sys/class/powercap/{zone}/energy_uj": str(uj),
            f"sys/class/powercap/{zone}/max_energy_range_uj": "262143328850",
        }
    return files


_ORIN = {
    "VDD_GPU_SOC": (12008, 300),
    "VDD_CPU_CV": (12008, 60),
    "VIN_SYS_5V0": (4968, 1000),
}
_ORIN_20V = {"VDD_GPU_SOC": (18792, 140), "VDD_CPU_CV": (18800, 40), "VIN_SYS_5V0": (4976, 960)}
_ORIN_DDR = {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (4968, 90)}
_XAVIER = (
    {"GPU": (19040, 60), "CPU": (19040, 20), "SOC": (19040, 130)},
    {"CV": (19040, 0), "VDDRQ": (19040, 10), "SYS5V": (4984, 540)},
)
_ORIN_NANO = {"VDD_IN": (4984, 968), "VDD_CPU_GPU_CV": (4976, 128), "VDD_SOC": (4976, 304)}
_XAVIER_NX = {"VDD_IN": (5064, 1000), "VDD_CPU_GPU_CV": (5064, 136), "VDD_SOC": (5064, 216)}


def _watts(*rails: Mapping[str, tuple[int, int]], of: tuple[str, ...] = ()) -> float:
    return sum(
        mv * ma * 1e-6 for chip in rails for name, (mv, ma) in chip.items() if not of or name in of
    )


_JETSONS = (
    FakedBoard(
        "Jetson Nano",
        "jetson",
        _tree("nvidia,p3450-0000", "nvidia,tegra210")
        | _iio(
            "6-0040",
            {"POM_5V_IN": (5000, 430), "POM_5V_GPU": (5000, 16), "POM_5V_CPU": (5000, 56)},
        ),
        2.15,
        "module-input",
    ),
    FakedBoard(
        "Jetson TX2",
        "jetson",
        _tree("nvidia,p2771-0000", "nvidia,tegra186")
        | _iio("0-0041", {"VDD_IN": (19000, 60), "VDD_CPU": (19000, 8), "VDD_DDR": (19000, 10)})
        | _iio("0-0040", {"VDD_GPU": (19000, 8), "VDD_SOC": (19000, 20), "VDD_WIFI": (4800, 8)}),
        1.14,
        "module-input",
    ),
    FakedBoard(
        "Jetson Xavier NX, JetPack 4",
        "jetson",
        _tree("nvidia,p3449-0000+p3668-0000") | _iio("7-0040", _XAVIER_NX),
        5.064,
        "module-input",
    ),
    FakedBoard(
        "Jetson Xavier NX, JetPack 5",
        "jetson",
        _tree("nvidia,p3509-0000+p3668-0000") | _hwmon(6, _XAVIER_NX, micro_ohm=5000),
        _watts(_XAVIER_NX, of=("VDD_IN",)),
        "module-input",
    ),
    FakedBoard(
        "Jetson AGX Xavier, JetPack 4",
        "jetson",
        _tree("nvidia,p2972-0000") | _iio("1-0040", _XAVIER[0]) | _iio("1-0041", _XAVIER[1]),
        6.878,
        "rails-sum",
    ),
    FakedBoard(
        "Jetson AGX Xavier, JetPack 5",
        "jetson",
        _tree("nvidia,p2972-0000")
        | _hwmon(2, _XAVIER[0], micro_ohm=2000)
        | _hwmon(3, _XAVIER[1], micro_ohm=2000),
        _watts(*_XAVIER),
        "rails-sum",
    ),
    FakedBoard(
        "Jetson Orin Nano",
        "jetson",
        _tree("nvidia,p3768-0000+p3767-0005", model="NVIDIA Jetson Orin Nano Developer Kit")
        | _hwmon(1, _ORIN_NANO, micro_ohm=5000),
        _watts(_ORIN_NANO, of=("VDD_IN",)),
        "module-input",
    ),
    FakedBoard(
        "Jetson Orin NX",
        "jetson",
        _tree("nvidia,p3768-0000+p3767-0000") | _hwmon(4, _ORIN_NANO, micro_ohm=5000),
        _watts(_ORIN_NANO, of=("VDD_IN",)),
        "module-input",
    ),
    FakedBoard(
        "Jetson AGX Orin",
        "jetson",
        _tree("nvidia,p3737-0000+p3701-0000")
        | _hwmon(3, _ORIN, micro_ohm=2000)
        | _hwmon(4, _ORIN_DDR, micro_ohm=2000),
        _watts(_ORIN),
        "rails-sum",
    ),
    FakedBoard(
        "Jetson AGX Orin on a 20 V supply",
        "jetson",
        _tree("nvidia,p3737-0000+p3701-0005")
        | _hwmon(5, _ORIN_20V, micro_ohm=2000)
        | _hwmon(6, _ORIN_DDR, micro_ohm=2000),
        _watts(_ORIN_20V),
        "rails-sum",
    ),
    FakedBoard(
        "Jetson AGX Thor",
        "jetson",
        _tree("nvidia,p4071-0000+p3834-0008")
        | _hwmon(
            1,
            {"VDD_GPU": (12000, 500), "VDD_CPU_SOC_MSS": (12000, 700), "VIN_SYS_5V0": (5000, 900)},
            micro_ohm=2000,
        )
        | {
            "sys/class/hwmon/hwmon2/name": "ina238",
            "sys/class/hwmon/hwmon2/in1_input": "19960",
            "sys/class/hwmon/hwmon2/power1_input": "24212000",
        },
        24.212,
        "board-dc-input",
    ),
    FakedBoard(
        "a carrier that the device tree does not name",
        "jetson",
        _hwmon(0, _ORIN_NANO, micro_ohm=5000),
        _watts(_ORIN_NANO, of=("VDD_IN",)),
        "module-input",
    ),
)

_PROCESSORS = (
    FakedBoard(
        "laptop with one package",
        "rapl",
        _rapl(
            {
                "intel-rapl:0": ("package-0", 65997277274),
                "intel-rapl:0:0": ("core", 48265700414),
                "intel-rapl:1": ("psys", 117870082040),
            }
        ),
        65997.277274,
        "cpu-package",
    ),
    FakedBoard(
        "two sockets with their memory",
        "rapl",
        _rapl(
            {
                "intel-rapl:0": ("package-0", 1000000000),
                "intel-rapl:0:0": ("dram", 200000000),
                "intel-rapl:1": ("package-1", 3000000000),
                "intel-rapl:1:0": ("dram", 400000000),
            }
        ),
        4600.0,
        "cpu-package",
    ),
    FakedBoard(
        "processor of two dies that mirror one counter",
        "rapl",
        _rapl(
            {
                "intel-rapl:0": ("package-0", 5000000000),
                "intel-rapl:1": ("package-1", 5000000000),
            }
        ),
        5000.0,
        "cpu-package",
    ),
)

_EXTERNAL = (
    FakedBoard(
        "Raspberry Pi 4 with an INA226 in its feed",
        "ina2xx",
        _tree("raspberrypi,4-model-b", model="Raspberry Pi 4 Model B Rev 1.2")
        | {
            "sys/class/hwmon/hwmon1/name": "ina226",
            "sys/class/hwmon/hwmon1/in1_input": "5016",
            "sys/class/hwmon/hwmon1/curr1_input": "820",
            "sys/class/hwmon/hwmon1/power1_input": "4113120",
            "sys/class/hwmon/hwmon1/shunt_resistor": "20000",
        },
        4.11312,
        "board-dc-input",
    ),
    FakedBoard(
        "a board behind a POWER-Z tester",
        "hwmon",
        {
            "sys/class/hwmon/hwmon4/name": "powerz",
            "sys/class/hwmon/hwmon4/in0_input": "5090",
            "sys/class/hwmon/hwmon4/in1_input": "330",
            "sys/class/hwmon/hwmon4/curr1_input": "1210",
            "sys/class/hwmon/hwmon4/curr1_label": "IBUS",
        },
        6.1589,
        "board-dc-input",
    ),
)

BOARDS: tuple[FakedBoard, ...] = (*_JETSONS, *_PROCESSORS, *_EXTERNAL)
