"""A recorded power trace: read for an analysis, or replayed in real time as if it were measured.

The file's first column is `t_s` (ascending, in s); every other column is a rail, in W:

    t_s,VDD_IN
    0.0,3.1
    0.1,6.9
"""

from __future__ import annotations

import csv
import math
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.energy import Boundary
from fedcore.errors import ConfigError, MeterError
from hardware.meters.base import (
    Clock,
    Meter,
    MeterInfo,
    NoSensorError,
    OpenMeter,
    Rail,
    Sample,
    require_fraction,
)

__all__ = ["CsvReplay", "PowerTrace", "read_trace"]


@dataclass(frozen=True, kw_only=True)
class PowerTrace:
    """Power over time.

    Attributes:
        t_s: ascending instants, float64 [sample].
        power_w: float64 [sample] by rail.
    """

    t_s: np.ndarray
    power_w: Mapping[str, np.ndarray]


def read_trace(path: Path) -> PowerTrace:
    """Read a recorded trace.

    Raises:
        MeterError: it cannot be read, or a line is not as described above; names file and line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MeterError(f"{path}: not a readable CSV file ({error})") from error
    header = [name.strip() for name in rows[0][1]] if rows else []
    if len(header) < 2 or header[0] != "t_s" or len(set(header)) != len(header):
        raise MeterError(f"{path}: got header {header}, expected t_s and one column per rail in W")
    if len(rows) < 3:
        raise MeterError(f"{path}: {len(rows) - 1} samples, expected at least 2")
    table = np.array([_numbers(row, header, f"{path}:{line}") for line, row in rows[1:]])
    (falls,) = np.nonzero(np.diff(table[:, 0]) <= 0)
    if falls.size:
        line, _ = rows[falls[0] + 2]
        raise MeterError(f"{path}:{line}: t_s does not rise")
    return PowerTrace(
        t_s=table[:, 0], power_w={name: table[:, i] for i, name in enumerate(header) if i}
    )


@dataclass(frozen=True, kw_only=True)
class CsvReplay(Meter):
    """Maps the time since `open` onto a recorded trace, linear between its samples.

    Attributes:
        path: the file.
        boundary: what the recording meter measured.
        resolution_w: the recording meter's smallest step.
        gain_error: half-width of the 95 % interval of its scale factor, relative.
        loop: start again at the end of the trace; otherwise nothing is read after it.
        start_mono_ns: instant of the trace's first sample; 0 is that of `open`.
    """

    path: str
    boundary: Boundary = Boundary.BOARD_DC_INPUT
    resolution_w: float = 0.0
    gain_error: float = 0.0
    loop: bool = False
    start_mono_ns: int = 0

    def __post_init__(self) -> None:
        require_fraction(self.gain_error, name="gain_error")
        if self.resolution_w < 0:
            raise ConfigError(f"resolution_w must be >= 0; got {self.resolution_w}")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Read the trace and start its clock.

        Raises:
            NoSensorError: the file is not such a trace.
        """
        try:
            trace = read_trace(Path(self.path))
        except MeterError as error:
            raise NoSensorError(str(error), fix="give path=FILE with columns t_s and W") from error
        return _OpenReplay(self, trace, now_ns)


class _OpenReplay(OpenMeter):
    def __init__(self, options: CsvReplay, trace: PowerTrace, now_ns: Clock) -> None:
        rails = tuple(
            Rail(
                name=name,
                boundary=options.boundary,
                kind="power",
                resolution=options.resolution_w,
                gain_error=options.gain_error,
                max_power_w=float(power_w.max()),
            )
            for name, power_w in trace.power_w.items()
        )
        super().__init__(
            MeterInfo(
                name="csv-replay",
                version="1",
                rails=rails,
                period_s=0.0,
                notes=(f"replayed from {Path(options.path).name}, not measured now",),
                flags=("replayed",),
            )
        )
        self._t_s = [float(t) for t in trace.t_s - trace.t_s[0]]
        self._power_w = np.column_stack(list(trace.power_w.values())).tolist()
        self._loop = options.loop
        self._now_ns = now_ns
        self._start_ns = options.start_mono_ns or now_ns()

    def read(self) -> Sample:
        mono_ns = self._now_ns()
        t_s = (mono_ns - self._start_ns) * 1e-9
        if self._loop:
            t_s %= self._t_s[-1]
        if not 0 <= t_s <= self._t_s[-1]:
            fault = f"the trace lasts {self._t_s[-1]:g} s and is asked for {t_s:.3f} s"
            return Sample(mono_ns, (math.nan,) * len(self.info.rails), fault)
        after = min(bisect_right(self._t_s, t_s), len(self._t_s) - 1)
        step_s = self._t_s[after] - self._t_s[after - 1]
        share = (t_s - self._t_s[after - 1]) / step_s
        values = (
            (1 - share) * low + share * high
            for low, high in zip(self._power_w[after - 1], self._power_w[after], strict=True)
        )
        return Sample(mono_ns, tuple(values))


def _numbers(row: list[str], header: list[str], where: str) -> list[float]:
    try:
        numbers = [float(cell) for cell in row]
    except ValueError as error:
        raise MeterError(f"{where}: {error}") from error
    if len(numbers) != len(header) or not all(math.isfinite(n) for n in numbers):
        raise MeterError(f"{where}: got {row}, expected {len(header)} finite numbers")
    return numbers
