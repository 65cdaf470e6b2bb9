"""`leakwatt calibrate`: compare this board's own sensor with a better meter in its feed.

    leakwatt calibrate --reference um25c --reference-option port=/dev/rfcomm0
    leakwatt calibrate --reference shelly --reference-option host=192.168.1.7 --seconds 600
    leakwatt calibrate --reference csv --reference-option path=meter.csv

Idle, some, half and all cores are loaded in turn while both meters are read. The fit is kept as a
file that the sensor's meter takes as its option `calibration`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fedcore.command_line import key_value
from fedcore.errors import ConfigError, MeterError, StorageError
from fedcore.plan import Choice
from fedcore.strict import build
from fedcore.types import Missing
from hardware.calibration import Calibration, fit, save_calibration
from hardware.card import read_board
from hardware.meters.base import OpenMeter
from hardware.meters.csv_replay import PowerTrace
from hardware.registry import METERS

__all__ = ["main", "record_both"]

_REFERENCES = {
    "um25c": "usb-meter",
    "shelly": "smart-plug",
    "tasmota": "smart-plug",
    "csv": "csv-replay",
}
"""What people call a reference, and the meter that reads it; any other registered meter will do."""

_STEP_S = 20.0
_SPIN = "while True: pass"


def main(argv: Sequence[str]) -> int:
    """Read both meters under changing load, fit, and write the calibration.

    Raises:
        ConfigError: an option is wrong, or a meter is not there.
        MeterError: the readings do not make a calibration; the line says why.
    """
    args = _parser().parse_args(argv)
    board = read_board()
    if isinstance(board, Missing):
        raise ConfigError(f"a calibration belongs to a model of board, and here {board.why}")
    with contextlib.ExitStack() as opened:
        internal = opened.enter_context(_open(Choice(name=args.meter, options=dict(args.option))))
        reference = opened.enter_context(
            _open(
                Choice(
                    name=_REFERENCES.get(args.reference, args.reference),
                    options=dict(args.reference_option),
                )
            )
        )
        traces = record_both(internal, reference, seconds=args.seconds, loads=not args.no_load)
    found = fit(
        *traces,
        board=board,
        meter=internal.info.name,
        reference_meter=reference.info.source,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        boundary=reference.info.rails[0].boundary,
        window_s=max(2.0, 4 * max(reference.info.period_s, internal.info.period_s)),
    )
    try:
        save_calibration(found, args.out)
    except OSError as error:
        raise StorageError.of(args.out, error, then="calibrate again") from error
    sys.stdout.write(_text(found, args.out))
    return 0


def record_both(
    internal: OpenMeter,
    reference: OpenMeter,
    *,
    seconds: float,
    loads: bool = True,
    step_s: float = _STEP_S,
) -> tuple[PowerTrace, PowerTrace]:
    """Read both meters for so long, on one clock, while the load climbs and falls.

    Raises:
        MeterError: a rail counts energy: only powers can be compared sample by sample.
    """
    for meter in (internal, reference):
        if any(rail.kind != "power" for rail in meter.info.rails):
            raise MeterError(f"{meter.info.name} counts joules; a calibration compares watts")
    samplers = [_Sampler(internal), _Sampler(reference)]
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
    first, second = (sampler.trace() for sampler in samplers)
    return first, second


class _Sampler:
    """Reads a meter in a thread as often as it has something new."""

    def __init__(self, meter: OpenMeter) -> None:
        self.meter = meter
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
                self._rows.append((sample.mono_ns * 1e-9, *sample.values))
                is_over.wait(max(0.1, self.meter.info.period_s))

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def trace(self) -> PowerTrace:
        """The widest rails only: where a meter already has a calibrated one, its raw ones."""
        table = np.array(self._rows)
        boundary = self.meter.info.rails[0].boundary
        names = [rail.name for rail in self.meter.info.rails if rail.boundary is boundary]
        return PowerTrace(
            t_s=table[:, 0], power_w={name: table[:, 1 + i] for i, name in enumerate(names)}
        )


def _open(choice: Choice) -> OpenMeter:
    opened = build(METERS, choice).open()
    if opened.info.absent:
        raise ConfigError(opened.info.absent)
    return opened


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


def _text(found: Calibration, path: Path) -> str:
    return (
        f"{found.boundary.value} = {found.gain:.4f} x {found.meter} + {found.offset_w:.3f} W, "
        f"within {100 * found.gain_error:.2g} % and {found.offset_error_w:.2g} W (95 %)\n"
        f"{found.n} windows beside {found.reference}; the line misses {found.residual_w:.2g} W "
        f"(RMS)\n"
        f"written {path}; use it with --option calibration={path}, or in an experiment's "
        f"[hardware] meter options\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leakwatt calibrate",
        description="Fit this board's own sensor to a better meter in its feed, under "
        "changing load.",
    )
    parser.add_argument("--meter", default="auto", help="the board's own (auto)")
    parser.add_argument(
        "--option", action="append", default=[], type=key_value, metavar="KEY=VALUE"
    )
    parser.add_argument(
        "--reference", required=True, help="um25c, shelly, tasmota, csv, or any meter's name"
    )
    parser.add_argument(
        "--reference-option",
        action="append",
        default=[],
        type=key_value,
        metavar="KEY=VALUE",
        help="port=, host= or path=",
    )
    parser.add_argument("--seconds", type=float, default=240.0, help="in all (240)")
    parser.add_argument("--no-load", action="store_true", help="leave the load to me")
    parser.add_argument("--out", type=Path, default=Path("calibration.toml"), help="(%(default)s)")
    return parser
