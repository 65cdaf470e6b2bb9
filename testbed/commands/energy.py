"""energy: share the log of an external meter out among the windows of a finished run."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from fedcore.energy import Boundary
from fedcore.strict import to_table
from testbed.commands.options import add_json, add_run

__all__ = ["add_parsers"]


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    energy = commands.add_parser(
        "energy", help="share the log of an external meter out among the phases of a run"
    )
    add_run(energy)
    energy.add_argument(
        "--log", type=Path, required=True, help="CSV of the whole run: t_s in s, and a rail in W"
    )
    energy.add_argument("--client", required=True, help="whose machine the meter fed")
    energy.add_argument(
        "--boundary",
        required=True,
        choices=[boundary.value for boundary in Boundary],
        help="what the meter measured",
    )
    energy.add_argument(
        "--gain-error",
        type=_share,
        required=True,
        help="of the meter, from its data sheet: 0.01 is 1 %%",
    )
    energy.add_argument(
        "--begin",
        type=float,
        metavar="T_S",
        help="where in the log the client's first work begins; else found by the work itself",
    )
    add_json(energy)
    energy.set_defaults(execute=_energy)


def _energy(args: argparse.Namespace) -> None:
    from testbed.external import attribute, write_external
    from testbed.folders import find_run
    from testbed.report.external import external_rows
    from testbed.results import load_results

    results = load_results(find_run(args.run, runs=args.runs))
    found = attribute(
        results,
        args.log,
        client_id=args.client,
        boundary=Boundary(args.boundary),
        gain_error=args.gain_error,
        begin_s=args.begin,
    )
    path = write_external(results.folder, found)
    if args.json:
        sys.stdout.write(json.dumps(to_table(found), indent=2) + "\n")
        return
    for row in external_rows([found], results.arms):
        sys.stdout.write(f"{row.arm:<20}{row.window:<10}{row.n:>5}  {row.energy}\n")
    sys.stdout.write(
        f"the first work begins {found.begin_s:.2f} ± {found.begin_error_s:.2g} s into the log\n"
        f"written {path}; `leakwatt report {results.folder.root}` shows it on the page\n"
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1 or math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text} is no share in [0, 1)")
    return value
