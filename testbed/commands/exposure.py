"""exposure: a leakage score without an attack."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.layout import PrivateFolder
from testbed.commands.options import add_json, add_run

if TYPE_CHECKING:
    from testbed.exposure import Exposures

__all__ = ["add_parsers"]


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    exposure = commands.add_parser(
        "exposure", help="score what every update could give away, without an attack"
    )
    add_run(exposure)
    add_json(exposure)
    exposure.add_argument(
        "--private-folder", type=Path, help="instead of the run's folder under --private"
    )
    exposure.add_argument(
        "--bytes-only", action="store_true", help="leave the vault shut: no Jacobian"
    )
    exposure.add_argument(
        "--every-round", action="store_true", help="the Jacobian also outside victim rounds"
    )
    exposure.add_argument(
        "--directions", type=_positive, help="input values that the Jacobian is taken in (64)"
    )
    exposure.add_argument(
        "--sigma", type=_deviation, help="of Gaussian noise, instead of the defences' own"
    )
    exposure.set_defaults(execute=_exposure)


def _exposure(args: argparse.Namespace) -> None:
    from fedcore.strict import to_table
    from testbed.exposing import N_DIRECTIONS, expose
    from testbed.folders import find_run, private_of
    from testbed.report.exposure import exposure_text

    run = find_run(args.run, runs=args.runs)
    private = None
    if not args.bytes_only:
        private = (
            PrivateFolder(args.private_folder)
            if args.private_folder
            else private_of(run, private=args.private)
        )
    found: Sequence[Exposures] = expose(
        run,
        private,
        sigma=args.sigma,
        n_directions=args.directions or N_DIRECTIONS,
        every_round=args.every_round,
    )
    if args.json:
        table = {"run": str(run.root), "arms": [to_table(exposures) for exposures in found]}
        sys.stdout.write(json.dumps(table, indent=2) + "\n")
    else:
        sys.stdout.write(exposure_text({exposures.arm: exposures.rows for exposures in found}))


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value


def _deviation(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number; got {text}")
    return value
