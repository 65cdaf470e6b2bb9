"""Meters read side by side while the load climbs and falls, for a calibration."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from fedcore.errors import MeterError
from hardware.meters.base import OpenMeter
from hardware.meters.csv_replay import PowerTrace

__all__ = ["record_under_load"]

_STEP_S = 20.0
_SPIN = "while True: pass"


def record_under_load(
    meters: Sequence[OpenMeter],
    *,
    seconds: float,
    loads: bool = True,
    step_s: float = _STEP_S,
) -> list[PowerTrace]:
    """Read all meters for so long, on one clock, while the load climbs and falls.

    Args:
        meters: of power.
        seconds: in all.
        loads: whether to make the load: none, all, half, a quarter of the cores.
        step_s: how long each.

    Raises:
        MeterError: a rail counts energy: only powers can be compared sample by sample.
    """
    for meter in meters:
        if any(rail.kind != "power" for rail in meter.info.rails):
            raise MeterError(f"{meter.info.name} counts joules; a calibration compares watts")
    samplers = [_Sampler(meter) for meter in meters]
    deadline_s = time.monotonic() + seconds
    with contextlib.ExitStack() as running:
        for sampler in samplers:
            running.enter_context(sampler.running())
        for n_busy in _staircase() if loads else itertools.repeat(0):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            with _busy(n_busy):
                time.sleep(min(step_s, left_s))
            shown = ", ".join(f"{s.meter.info.name} {s.latest_w:.3g} W" for s in samplers)
            sys.stderr.write(f"{n_busy} cores busy: {shown}\n")
    return [sampler.trace() for sampler in samplers]


class _Sampler:
    """Reads a meter in a thread as often as it has something new.

    Of its rails only those of the first one's boundary: the sensor's own, where a meter shows
    calibrated ones beside them.
    """

    def __init__(self, meter: OpenMeter) -> None:
        self.meter = meter
        rails = meter.info.rails
        self._kept = [i for i, rail in enumerate(rails) if rail.boundary is rails[0].boundary]
        self._rows: list[tuple[float, ...]] = []

    @property
    def latest_w(self) -> float:
        """Sum over the rails."""
        return math.fsum(self._rows[-1][1:]) if self._rows else math.nan

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        is_over = threading.Event()

        def read() -> None:
            while not is_over.is_set():
                sample = self.meter.read()
                kept = (sample.values[i] for i in self._kept)
                self._rows.append((sample.mono_ns * 1e-9, *kept))
                is_over.wait(max(0.1, self.meter.info.period_s))

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def trace(self) -> PowerTrace:
        """All that was read."""
        t_s, *powers = np.array(self._rows).T
        names = [self.meter.info.rails[i].name for i in self._kept]
        return PowerTrace(t_s=t_s, power_w=dict(zip(names, powers, strict=True)))


def _staircase() -> Iterator[int]:
    """Cores to load, again and again: none, all, half, a quarter."""
    n = os.cpu_count() or 1
    return itertools.cycle(dict.fromkeys([0, n, -(-n // 2), -(-n // 4)]))


@contextlib.contextmanager
def _busy(n: int) -> Iterator[None]:
    """Keep so many cores busy meanwhile."""
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(n)]  # noqa: S603
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()
