"""`leakwatt meter`: live watts in the terminal, or the joules of any command.

leakwatt meter                              watts, a line per second, until Ctrl-C
leakwatt meter --csv power.csv --seconds 60 and record them
leakwatt meter -- python train.py           run it; say what it cost, gross and net of idling
leakwatt meter compare -- python train.py   and what other tools say of the same run
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from fedcore.command_line import key_value, positive_s
from fedcore.energy import WindowRecord
from fedcore.errors import ConfigError, StorageError
from fedcore.plan import Choice
from fedcore.types import Missing
from hardware.commands.telling import as_table, as_text, mean_w, nothing, watts
from hardware.window import Recorder

__all__ = ["add_meter_options", "main", "measured_command", "recorder_of"]


def main(argv: Sequence[str]) -> int:
    """Measure; the exit code is the command's, or 1 when nothing here can be watched."""
    ours, command = _split(argv)
    if ours[:1] == ["compare"]:
        from hardware.commands.compare import main as compare

        return compare(ours[1:], command)
    args = _parser().parse_args(ours)
    with recorder_of(args) as recorder:
        if command:
            return _wrap(recorder, command, args)
        return _watch(recorder, args)


def add_meter_options(parser: argparse.ArgumentParser) -> None:
    """What says with which meter, and how often."""
    parser.add_argument("--meter", default="auto", help="by name (auto: the first that reads here)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=key_value,
        metavar="KEY=VALUE",
        help="of the meter; may be given again",
    )
    parser.add_argument("--period-s", type=positive_s, default=0.1, help="between samples (0.1)")
    parser.add_argument(
        "--energy-model", default="generic-x86-thread", help="table that prices CPU seconds"
    )


def recorder_of(args: argparse.Namespace) -> Recorder:
    """The recorder that these options name.

    Raises:
        ConfigError: there is no such meter or table, or an option is wrong.
    """
    return Recorder(
        meter=Choice(name=args.meter, options=dict(args.option)),
        period_s=args.period_s,
        energy_model=args.energy_model,
    )


def measured_command(recorder: Recorder, command: Sequence[str]) -> tuple[int, WindowRecord]:
    """Run a command inside a window; its exit code, and what it cost.

    Raises:
        ConfigError: it cannot be started.
    """
    window = recorder.begin("command")
    try:
        code = _run(command)
    finally:
        record = recorder.end(window)
    return code, record


def _run(command: Sequence[str]) -> int:
    """Run it with our terminal, and return its exit code; Ctrl-C is its own.

    Raises:
        ConfigError: it cannot be started.
    """
    try:
        process = subprocess.Popen(command)  # noqa: S603  # what the person typed
    except OSError as error:
        raise ConfigError(f"{command[0]}: cannot be run ({error.strerror})") from error
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            code = process.wait()
            return 128 - code if code < 0 else code


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our options, and the command behind "--"."""
    given = list(argv)
    if "--" not in given:
        return given, []
    at = given.index("--")
    return given[:at], given[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leakwatt meter",
        usage="%(prog)s [options] [-- COMMAND ...]\n"
        "       %(prog)s compare [options] -- COMMAND ...",
        description="Watch what this machine draws, or measure what a command costs.",
    )
    add_meter_options(parser)
    parser.add_argument(
        "--every-s", type=positive_s, default=1.0, help="between lines and rows (1)"
    )
    parser.add_argument("--seconds", type=positive_s, help="watch so long (until Ctrl-C)")
    parser.add_argument(
        "--baseline-s", type=positive_s, help="idle before and after COMMAND, for its net (none)"
    )
    parser.add_argument("--csv", type=Path, help="record mean watts, as the meter csv-replay reads")
    parser.add_argument("--out", type=Path, help="write what COMMAND cost as JSON")
    return parser


def _wrap(recorder: Recorder, command: Sequence[str], args: argparse.Namespace) -> int:
    """Run a command inside a window."""
    with contextlib.ExitStack() as opened:
        out = opened.enter_context(_opened(args.out)) if args.out else None  # before it costs
        before = recorder.baseline(args.baseline_s) if args.baseline_s else None
        with _recording(recorder, args):
            code, record = measured_command(recorder, command)
        idle = (before, recorder.baseline(args.baseline_s)) if before else None
        sys.stderr.write("\n" + as_text(record, idle))
        if out:
            table = {"command": list(command), "exit_code": code, **as_table(record, idle)}
            json.dump(table, out, indent=2)
    return code


def _watch(recorder: Recorder, args: argparse.Namespace) -> int:
    """A line per interval until the time is up."""
    if isinstance(recorder.meter, Missing):
        sys.stderr.write("\n".join(nothing(recorder.meter.why)) + "\n")
        return 1
    with contextlib.ExitStack() as opened, contextlib.suppress(KeyboardInterrupt):
        rows = _Rows(opened.enter_context(_opened(args.csv))) if args.csv else None
        start_s = time.monotonic()
        while args.seconds is None or time.monotonic() - start_s < args.seconds:
            window = recorder.begin("interval")
            time.sleep(args.every_s)
            record = recorder.end(window)
            sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {watts(record)}\n")
            sys.stdout.flush()
            if rows:
                rows.add(record)
    return 0


@contextlib.contextmanager
def _recording(recorder: Recorder, args: argparse.Namespace) -> Iterator[None]:
    """Write a row per interval beside whatever runs, where a file was named."""
    if not args.csv or isinstance(recorder.meter, Missing):
        yield
        return
    is_over = threading.Event()
    with _opened(args.csv) as file:
        rows = _Rows(file)

        def record() -> None:
            while not is_over.is_set():
                window = recorder.begin("interval")
                is_over.wait(args.every_s)
                rows.add(recorder.end(window))

        thread = threading.Thread(target=record)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class _Rows:
    """Mean watts per interval, at its middle; an interval without all rails leaves a hole."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._rails: tuple[str, ...] = ()
        self._start_ns = 0

    def add(self, record: WindowRecord) -> None:
        if isinstance(record.measured, Missing):
            return
        watts = {reading.rail: mean_w(reading) for reading in record.measured}
        writer = csv.writer(self._file)
        if not self._rails:
            self._rails, self._start_ns = tuple(watts), record.start_mono_ns
            writer.writerow(["t_s", *self._rails])
        if set(watts) == set(self._rails):
            middle_s = (record.start_mono_ns - self._start_ns) * 1e-9 + record.duration_s / 2
            writer.writerow([f"{middle_s:.6f}", *(f"{watts[rail]:.6g}" for rail in self._rails)])
            self._file.flush()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        file = path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise StorageError.of(path, error, then="measure again") from error
    with file:
        yield file
