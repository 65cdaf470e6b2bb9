"""`leakwatt calibrate`: compare this board's own sensor with a better meter in its feed.

    leakwatt calibrate --reference um25c --reference-option port=/dev/rfcomm0
    leakwatt calibrate --reference shelly --reference-option host=192.168.1.7 --seconds 600
    leakwatt calibrate --reference csv          while any other meter records; then, with its log
    leakwatt calibrate --reference csv --reference-option path=meter.csv

Idle, some, half and all cores are loaded in turn while both meters are read. The fit is kept as a
file that the sensor's meter takes as its option `calibration`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedcore.command_line import key_value, positive_s
from fedcore.errors import ConfigError, StorageError
from fedcore.plan import Choice
from fedcore.strict import build, canonical_json, parse
from fedcore.types import Missing
from hardware.alignment import align, signature
from hardware.calibration import Calibration, fit, save_calibration
from hardware.card import read_board
from hardware.commands.loads import record_under_load
from hardware.meters.base import OpenMeter
from hardware.meters.csv_replay import PowerTrace, read_trace
from hardware.registry import METERS

__all__ = ["main"]

_REFERENCES = {"um25c": "usb-meter", "shelly": "smart-plug", "tasmota": "smart-plug"}
"""What people call a reference, and the meter that reads it; any other registered meter will do."""

_SHORTEST_WINDOW_S = 2.0
_SAMPLES_PER_WINDOW = 4
_BURN_S = 3.0  # plugs show a value per second


def main(argv: Sequence[str]) -> int:
    """Read both meters under changing load, fit, and write the calibration.

    Raises:
        ConfigError: an option is wrong, or a meter or a file is not there.
        MeterError: the readings do not make a calibration; the line says why.
    """
    args = _parser().parse_args(argv)
    if args.reference != "csv":
        found = _beside(args)
    elif "path" in dict(args.reference_option):
        found = _by_log(args)
    else:
        return _write_log(args)
    with _written(args.out):
        save_calibration(found, args.out)
    sys.stdout.write(_text(found, args.out))
    return 0


def _beside(args: argparse.Namespace) -> Calibration:
    """Both meters now, on our clock."""
    board = _board(args)
    name = _REFERENCES.get(args.reference, args.reference)
    with (
        _open(Choice(name=args.meter, options=dict(args.option))) as internal,
        _open(Choice(name=name, options=dict(args.reference_option))) as reference,
    ):
        own, other = record_under_load(
            [internal, reference], seconds=args.seconds, loads=not args.no_load
        )
        period_s = max(reference.info.period_s, internal.info.period_s)
    return fit(
        own,
        other,
        board=board,
        meter=internal.info.name,
        reference_meter=reference.info.source,
        date=_today(),
        boundary=reference.info.rails[0].boundary,
        window_s=max(_SHORTEST_WINDOW_S, _SAMPLES_PER_WINDOW * period_s),
    )


def _write_log(args: argparse.Namespace) -> int:
    """Our side of it, with a signature that a meter with a clock of its own will show, too."""
    board = _board(args)
    with _open(Choice(name=args.meter, options=dict(args.option))) as internal:
        sys.stderr.write("the reference must be recording now; a signature goes first\n")
        instants = signature(burn_s=_BURN_S, pause_s=_BURN_S)
        (own,) = record_under_load([internal], seconds=args.seconds, loads=not args.no_load)
        log = _Log(
            board=board,
            meter=internal.info.name,
            instants=instants,
            t_s=tuple(own.t_s.tolist()),
            power_w={rail: tuple(power_w.tolist()) for rail, power_w in own.power_w.items()},
        )
    with _written(args.log):
        args.log.write_bytes(canonical_json(log) + b"\n")
    sys.stdout.write(
        f"written {args.log}; stop the reference, copy its log here with columns t_s and watts, "
        f"then\n  leakwatt calibrate --reference csv --reference-option path=FILE.csv "
        f"--log {args.log}\n"
    )
    return 0


def _by_log(args: argparse.Namespace) -> Calibration:
    """A recorded reference, brought onto our clock by the signature in both."""
    path = Path(str(dict(args.reference_option)["path"]))
    try:
        log = parse(_Log, json.loads(args.log.read_bytes()), where=str(args.log))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{args.log}: no log of our side ({error}); make it with --reference csv alone, while "
            "the reference records"
        ) from error
    trace = read_trace(path)
    found = align(trace, log.instants)
    sys.stderr.write(
        f"{path} lies {found.offset_s:.2f} ± {found.uncertainty_s:.2g} s from our clock "
        f"(correlation {found.correlation:.2f})\n"
    )
    period_s = float(np.median(np.diff(trace.t_s)))
    return fit(
        PowerTrace(t_s=np.array(log.t_s), power_w={r: np.array(w) for r, w in log.power_w.items()}),
        replace(trace, t_s=trace.t_s + found.offset_s),
        board=log.board,
        meter=log.meter,
        reference_meter=path.name,
        date=_today(),
        window_s=max(_SHORTEST_WINDOW_S, _SAMPLES_PER_WINDOW * period_s),
    )


@dataclass(frozen=True, kw_only=True)
class _Log:
    """Our side of a calibration by a recorded reference.

    Attributes:
        instants: of the signature, in ns; see `hardware.alignment.signature`.
        t_s: of the samples, on CLOCK_MONOTONIC.
    """

    board: str
    meter: str
    instants: tuple[int, ...]
    t_s: tuple[float, ...]
    power_w: Mapping[str, tuple[float, ...]]


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError.of(path, error, then="calibrate again") from error


def _board(args: argparse.Namespace) -> str:
    board: str | Missing = args.board or read_board()
    if isinstance(board, Missing):
        raise ConfigError(f"{board.why}; say --board NAME, since a calibration is of one model")
    return board


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def _open(choice: Choice) -> OpenMeter:
    opened = build(METERS, choice).open()
    if opened.info.absent:
        raise ConfigError(opened.info.absent)
    return opened


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
    parser.add_argument("--seconds", type=positive_s, default=240.0, help="in all (240)")
    parser.add_argument("--board", help="model of this board (as the device tree names it)")
    parser.add_argument("--no-load", action="store_true", help="leave the load to me")
    parser.add_argument(
        "--log",
        type=Path,
        default=Path("calibration-log.json"),
        help="our side, for a reference that is a csv (%(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("calibration.toml"), help="(%(default)s)")
    return parser
