"""The machine card: what must be known of a machine to compare what was measured on it.

Everything is read from files under a root; what is not there is missing, with its reason. Serial
numbers, host and user names are never read.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcore.conditions import Conditions
from fedcore.devices import Computing
from fedcore.host import host_id
from fedcore.strict import digest, to_table
from fedcore.types import Missing
from hardware.conditions import read_conditions
from hardware.meters.base import MeterInfo
from hardware.sysfs import parse_cpus, read_line, read_parsed

__all__ = ["FrequencyPolicy", "Limits", "MachineCard", "read_board", "read_card"]

_WHEELS = ("leakwatt", "torch", "numpy", "grpcio", "protobuf", "onnxruntime", "lava-nc", "lava-dl")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_FIRMWARE = (
    "etc/nv_tegra_release",
    "proc/device-tree/chosen/bootloader/version",
    "sys/class/dmi/id/bios_version",
)
_POWER_MODE = ("var/lib/nvpmodel/status", "sys/firmware/acpi/platform_profile")
_CGROUP_V1_NO_LIMIT = 2**62


@dataclass(frozen=True, kw_only=True)
class FrequencyPolicy:
    """Processors under one rule for their clock.

    Attributes:
        cpus: their numbers.
        current_hz: lowest and highest clock among them now.
    """

    cpus: tuple[int, ...]
    governor: str
    min_hz: int
    max_hz: int
    current_hz: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the control group (a container) allows; of nested groups, the tightest.

    Attributes:
        cpus: CPU seconds per second.
    """

    cpus: float | Missing
    memory_bytes: int | Missing


@dataclass(frozen=True, kw_only=True)
class MachineCard:
    """One machine at one instant.

    Attributes:
        host: the same for all that run on one machine since it started, and tells nothing else.
        board: model by the device tree, or by the firmware (DMI).
        firmware: release of the Jetson's, the Raspberry Pi's boot loader, or the BIOS.
        n_cpus: logical processors that are online.
        memory_bytes: that the kernel manages.
        kernel: release and version.
        power_mode: nvpmodel's on a Jetson, or the platform profile of the firmware.
        conditions: temperatures, evidence of throttling, and clocks now.
        affinity: processors that this process, and so its sampler, may run on.
        wheels: versions by distribution.
        threads: environment variables that set thread counts.
        computing: what the backend computes on.
        meter: what is measured, or why nothing is.
    """

    host: str | Missing
    board: str | Missing
    firmware: str | Missing
    cpu: str | Missing
    n_cpus: int | Missing
    memory_bytes: int | Missing
    kernel: str
    architecture: str
    os: str | Missing
    frequencies: tuple[FrequencyPolicy, ...] | Missing
    power_mode: str | Missing
    conditions: Conditions
    limits: Limits
    affinity: tuple[int, ...]
    python: str
    wheels: Mapping[str, str | Missing]
    threads: Mapping[str, str | Missing]
    computing: Computing
    meter: MeterInfo | Missing

    def to_table(self) -> dict[str, Any]:
        """Plain values for the handshake and the report; what is missing is {"why": ...}."""
        table: dict[str, Any] = to_table(self)
        return table

    @property
    def digest(self) -> str:
        """SHA-256 that names this card on phase reports."""
        return digest(self)


def read_card(
    *, meter: MeterInfo | Missing, computing: Computing, root: Path = Path("/")
) -> MachineCard:
    """Look at the machine now.

    Args:
        meter: a recorder's `meter`.
        computing: a backend's `computing`.
        root: where the machine's file system begins.
    """
    system = os.uname()
    cpu = root / "sys/devices/system/cpu"
    return MachineCard(
        host=host_id(root),
        board=read_board(root),
        firmware=_first_of(root, _FIRMWARE, "no file tells of the firmware"),
        cpu=read_parsed(root / "proc/cpuinfo", _cpu_name),
        n_cpus=read_parsed(cpu / "online", lambda text: len(parse_cpus(text))),
        memory_bytes=read_parsed(root / "proc/meminfo", _memory_bytes),
        kernel=f"{system.release} {system.version}",
        architecture=system.machine,
        os=read_parsed(root / "etc/os-release", _os_name),
        frequencies=_frequencies(cpu),
        power_mode=_first_of(root, _POWER_MODE, "no file tells of a power mode"),
        conditions=read_conditions(root),
        limits=_limits(root),
        affinity=tuple(sorted(os.sched_getaffinity(0))),
        python=platform.python_version(),
        wheels={name: _wheel(name) for name in _WHEELS},
        threads={
            name: os.environ.get(name) or Missing(why="not set") for name in _THREAD_VARIABLES
        },
        computing=computing,
        meter=meter,
    )


def _first_of(root: Path, files: Sequence[str], none: str) -> str | Missing:
    """The first line of the first file that is there."""
    for file in files:
        line = read_parsed(root / file, lambda text: text.splitlines()[0])
        if not isinstance(line, Missing):
            return line
    return Missing(why=none)


def read_board(root: Path = Path("/")) -> str | Missing:
    """Model by the device tree, or by the firmware (DMI)."""
    tree = read_parsed(root / "proc/device-tree/model", str)
    if not isinstance(tree, Missing):
        return tree
    names = [
        read_parsed(root / "sys/class/dmi/id" / f, str) for f in ("sys_vendor", "product_name")
    ]
    known = [name for name in names if not isinstance(name, Missing) and name]
    return " ".join(known) or Missing(why="neither a device tree nor DMI names the board")


def _cpu_name(cpuinfo: str) -> str:
    fields = _fields(cpuinfo, ":")
    if "CPU part" in fields:  # 64-bit ARM names nothing, but numbers its maker and design
        return f"ARM implementer {fields['CPU implementer']} part {fields['CPU part']}"
    return fields["model name"]


def _memory_bytes(meminfo: str) -> int:
    return int(_fields(meminfo, ":")["MemTotal"].removesuffix("kB")) * 1024


def _os_name(release: str) -> str:
    return _fields(release, "=")["PRETTY_NAME"].strip('"')


def _fields(text: str, separator: str) -> dict[str, str]:
    """The first value of each key."""
    pairs = [line.partition(separator) for line in reversed(text.splitlines())]
    return {key.strip(): value.strip() for key, _, value in pairs}


def _frequencies(cpu: Path) -> tuple[FrequencyPolicy, ...] | Missing:
    """One entry per rule, since a desktop has one policy per thread, all alike."""
    alike: dict[tuple[str, int, int], list[tuple[int, list[int]]]] = {}
    try:
        for policy in sorted((cpu / "cpufreq").glob("policy*")):
            governor = read_line(policy / "scaling_governor")
            low, high, now = (
                int(read_line(policy / f"scaling_{which}_freq")) * 1000  # kHz
                for which in ("min", "max", "cur")
            )
            cpus = parse_cpus(read_line(policy / "related_cpus").replace(" ", ","))
            alike.setdefault((governor, low, high), []).append((now, cpus))
    except (OSError, ValueError) as error:
        return Missing(why=str(error))
    if not alike:
        return Missing(why=f"no frequency policies in {cpu / 'cpufreq'}")
    return tuple(
        FrequencyPolicy(
            cpus=tuple(sorted(number for _, cpus in members for number in cpus)),
            governor=governor,
            min_hz=low,
            max_hz=high,
            current_hz=(min(now for now, _ in members), max(now for now, _ in members)),
        )
        for (governor, low, high), members in alike.items()
    )


def _limits(root: Path) -> Limits:
    cpus = [limit for folder in _groups(root, "cpu") if (limit := _cpu_limit(folder))]
    memory = [limit for folder in _groups(root, "memory") if (limit := _memory_limit(folder))]
    none = Missing(why="no control group sets a limit")
    return Limits(cpus=min(cpus, default=none), memory_bytes=min(memory, default=none))


def _groups(root: Path, controller: str) -> list[Path]:
    """The folders of this process's control group and of those around it, versions 1 and 2."""
    folders = []
    listed = read_parsed(root / "proc/self/cgroup", str)
    for line in [] if isinstance(listed, Missing) else listed.splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controllers
            inner = base / group.lstrip("/")
            folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(base)]
    return folders


def _cpu_limit(folder: Path) -> float | None:
    both = read_parsed(folder / "cpu.max", str)
    if isinstance(both, Missing):
        parts = [read_parsed(folder / f"cpu.cfs_{name}_us", str) for name in ("quota", "period")]
        both = " ".join("max" if isinstance(part, Missing) else part for part in parts)
    quota, _, period = both.partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _memory_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        limit = read_parsed(folder / name, int)
        if not isinstance(limit, Missing) and limit < _CGROUP_V1_NO_LIMIT:
            return limit
    return None


def _wheel(name: str) -> str | Missing:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Missing(why="not installed")
