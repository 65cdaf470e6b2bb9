"""`leakwatt meter compare`: one run of a command, seen by our meter and by other tools."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from fedcore.errors import ConfigError
from hardware.commands.meter import add_meter_options, measured_command, recorder_of
from hardware.commands.telling import as_text

__all__ = ["main"]

_J_PER_KWH = 3.6e6


def main(argv: Sequence[str], command: Sequence[str]) -> int:
    """Run the command once under all tools; the exit code is the command's.

    Raises:
        ConfigError: no command was given, or it cannot be started.
    """
    parser = argparse.ArgumentParser(
        prog="leakwatt meter compare",
        usage="%(prog)s [options] -- COMMAND ...",
        description="What we measure of a command, and what other installed tools say of it.",
    )
    add_meter_options(parser)
    args = parser.parse_args(argv)
    if not command:
        raise ConfigError("compare needs a command: leakwatt meter compare -- python train.py")
    started, rows = _start_all()
    with recorder_of(args) as recorder:
        code, record = measured_command(recorder, command)
    rows |= {tool.name: _said(tool) for tool in started}
    sys.stderr.write("\nLeakwatt\n" + as_text(record))
    for tool in _TOOLS:
        sys.stderr.write(f"\n{tool.name}\n{rows[tool.name]}\n")
    return code


class _Tool(ABC):
    """Another tool around the command.

    Attributes:
        name: as people call it, and of its module.
        package: that installs it.
        note: what its number is, by its source and documentation.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    note: ClassVar[str]

    @abstractmethod
    def start(self) -> None:
        """Begin to measure; any error means that it cannot here."""

    @abstractmethod
    def stop(self) -> dict[str, float]:
        """End, and give its joules by what they are of."""


class _CodeCarbon(_Tool):
    name = package = "codecarbon"
    note = "without a sensor a share of the processor's rated power, and constant watts of memory"

    def start(self) -> None:
        module: Any = importlib.import_module("codecarbon")
        logging.getLogger("codecarbon").disabled = True
        self._tracker = module.OfflineEmissionsTracker(
            country_iso_code="FRA",  # the joules do not depend on it
            measure_power_secs=1,
            save_to_file=False,
            log_level="critical",
            allow_multiple_runs=True,
        )
        self._tracker.start()

    def stop(self) -> dict[str, float]:
        self._tracker.stop()
        data = self._tracker.final_emissions_data
        parts = {name: getattr(data, f"{name}_energy") for name in ("cpu", "gpu", "ram")}
        return {name: kwh * _J_PER_KWH for name, kwh in parts.items()}


class _Zeus(_Tool):
    name = package = "zeus"
    note = "counters of processors and graphics cards; power at 10 Hz on a Jetson"

    def start(self) -> None:
        module: Any = importlib.import_module("zeus.monitor")
        self._monitor = module.ZeusMonitor()
        self._monitor.begin_window("command", sync_execution=False)

    def stop(self) -> dict[str, float]:
        found = self._monitor.end_window("command", sync_execution=False)
        joules = {f"gpu {i}": j for i, j in (found.gpu_energy or {}).items()}
        joules |= {f"cpu {i}": j for i, j in (found.cpu_energy or {}).items()}
        return joules | {f"dram {i}": j for i, j in (found.dram_energy or {}).items()}


class _Jtop(_Tool):
    name, package = "jtop", "jetson-stats"
    note = "its total power, twice a second; sums of rails may count a rail twice"

    def start(self) -> None:
        module: Any = importlib.import_module("jtop")
        self._stack = contextlib.ExitStack()
        self._board = self._stack.enter_context(module.jtop(interval=0.5))
        self._joules, self._is_over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._add_up)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        self._is_over.set()
        self._thread.join()
        self._stack.close()
        return {"tot": self._joules}

    def _add_up(self) -> None:
        while not self._is_over.wait(0.5):
            self._joules += 0.5 * self._board.power["tot"]["power"] * 1e-3


_TOOLS: tuple[type[_Tool], ...] = (_CodeCarbon, _Zeus, _Jtop)


def _start_all() -> tuple[list[_Tool], dict[str, str]]:
    """The tools that run, and why the others do not."""
    started, rows = [], {}
    for kind in _TOOLS:
        tool = kind()
        try:
            tool.start()
            started.append(tool)
        except ModuleNotFoundError:
            rows[kind.name] = f"           not installed: pip install {kind.package}"
        except Exception as error:  # noqa: BLE001  # a stranger's package may raise anything
            rows[kind.name] = f"           cannot measure here: {_first_line(error)}"
    return started, rows


def _said(tool: _Tool) -> str:
    try:
        joules = tool.stop()
    except Exception as error:  # noqa: BLE001  # a stranger's package may raise anything
        return f"           gave nothing: {_first_line(error)}"
    parts = ", ".join(f"{name} {j:.4g} J" for name, j in joules.items())
    return f"           {parts or 'no device found'} ({tool.note})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
