"""NVIDIA graphics cards through the driver's library: an energy counter, else an averaged power."""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedcore.energy import Boundary
from hardware.meters.base import (
    Clock,
    MeterInfo,
    NoSensorError,
    OpenMeter,
    OpenRails,
    Rail,
    Sensor,
    require_fraction,
)

__all__ = ["Nvml"]

_GAIN_ERROR = 0.05
"""NVIDIA's manual of nvmlDeviceGetPowerUsage: within 5 %."""

_MAX_POWER_W = 1500.0
"""Above what one board draws (ours); only tells a reset counter from a busy one."""

_COUNTER_UPDATE_S = 0.1
"""The counter advances every 20 to 100 ms."""

_POWER_UPDATE_S = 1.0
"""Since Ampere the power is the mean of the last second (arXiv:2312.02741); before, it is newer."""

_DEVICES = ("dev/nvidiactl", "dev/dxg")  # the driver's; Windows' under WSL
_TEGRA = "etc/nv_tegra_release"
_JETSON = "use the jetson meter, which reads the module's own sensors"
_SAMPLED = ("A100", "H100")


@dataclass(frozen=True, kw_only=True)
class Nvml(Sensor):
    """Every graphics card, each a rail of its own.

    Attributes:
        gain_error: half-width of the 95 % interval of the scale factor, relative.
    """

    gain_error: float = _GAIN_ERROR

    def __post_init__(self) -> None:
        require_fraction(self.gain_error, name="gain_error")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Start the library and try every card's counter, then its power.

        Raises:
            NoSensorError: there is no card, no library, or no card that can be measured.
        """
        root = Path(self.root)
        if not any((root / device).exists() for device in _DEVICES):
            is_tegra = (root / _TEGRA).exists()
            raise NoSensorError(
                f"no NVIDIA driver ({root / _DEVICES[0]})",
                fix=_JETSON
                if is_tegra
                else "with a card install NVIDIA's driver, or start the container with --gpus all",
            )
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError as error:
            raise NoSensorError(str(error), fix="run `pip install 'leakwatt[nvml]'`") from error
        with contextlib.ExitStack() as opened:
            try:
                nvml.nvmlInit()
                opened.callback(nvml.nvmlShutdown)
                handles = [
                    nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())
                ]
            except nvml.NVMLError as error:
                raise NoSensorError(
                    f"NVML: {error}", fix="run `nvidia-smi`, which must work first"
                ) from error
            rails, readers, notes = [], [], []
            for i, handle in enumerate(handles):
                try:
                    rail, reader = _measure(nvml, handle, f"gpu-{i}", self.gain_error)
                except OSError as error:
                    notes.append(f"gpu-{i} is left out: {error}")
                    continue
                rails.append(rail)
                readers.append(reader)
                notes += _notes(nvml, handle, rail)
            if not rails:
                raise NoSensorError(
                    "; ".join(notes) or "NVML: no card", fix=f"on a Jetson {_JETSON}"
                )
            info = MeterInfo(
                name="nvml",
                version="1",
                rails=tuple(rails),
                period_s=_COUNTER_UPDATE_S,
                notes=tuple(notes),
            )
            return OpenRails(info, readers, opened=opened.pop_all(), now_ns=now_ns)


def _measure(
    nvml: Any, handle: Any, name: str, gain_error: float
) -> tuple[Rail, Callable[[], float]]:
    """The card's counter where it answers, else its power.

    Raises:
        OSError: neither answers. On a Jetson the library starts, and then supports neither.
    """
    rail = Rail(
        name=name,
        boundary=Boundary.GPU_BOARD,
        kind="counter",
        resolution=1e-3,
        gain_error=gain_error,
        max_power_w=_MAX_POWER_W,
        update_s=_COUNTER_UPDATE_S,
    )
    reader = functools.partial(_read, nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    try:
        reader()
    except OSError:
        rail = replace(rail, kind="power", update_s=_POWER_UPDATE_S)
        reader = functools.partial(_read, nvml, nvml.nvmlDeviceGetPowerUsage, handle)
        reader()
    return rail, reader


def _read(nvml: Any, query: Callable[[Any], int], handle: Any) -> float:
    """A query's mJ or mW in J or W; the library's errors as what they are: the device's."""
    try:
        return query(handle) * 1e-3
    except nvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from error


def _notes(nvml: Any, handle: Any, rail: Rail) -> list[str]:
    """What a reader must know of this card."""
    notes = []
    if rail.kind == "power":
        notes.append(f"{rail.name}: no energy counter; power may be the mean of the last second")
    with contextlib.suppress(nvml.NVMLError):
        name = nvml.nvmlDeviceGetName(handle)
        if any(model in name for model in _SAMPLED):
            notes.append(
                f"{rail.name}: {name} looks at its power 25 % of the time (arXiv:2312.02741); "
                "measure several seconds, several times"
            )
    return notes
