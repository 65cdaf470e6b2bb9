"""runs list, show, export: what was run and what was found."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fedcore.errors import FedcoreError
from fedcore.layout import RunFolder
from testbed.commands.options import add_folders, add_json, add_run

__all__ = ["add_parsers"]


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    actions = commands.add_parser("runs", help="list, show or export runs").add_subparsers(
        metavar="ACTION", required=True
    )
    listing = actions.add_parser("list", help="all runs, oldest first")
    add_folders(listing)
    add_json(listing)
    listing.set_defaults(execute=_list)
    show = actions.add_parser("show", help="how far a run is, or what it found")
    add_run(show)
    add_json(show)
    show.add_argument("--follow", action="store_true", help="keep showing until the run is over")
    show.set_defaults(execute=_show)
    export = actions.add_parser("export", help="every table of a run, joined on run, round, client")
    add_run(export)
    export.add_argument("--format", choices=("csv", "parquet", "json"), default="csv")
    export.add_argument("--out", type=Path, required=True, help="folder for the tables")
    export.set_defaults(execute=_export)


def _list(args: argparse.Namespace) -> None:
    from testbed.folders import all_runs

    rows = [{"run": run.root.name, "state": _state(run)} for run in all_runs(args.runs)]
    if args.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for row in rows:
        sys.stdout.write(f"{row['run']:<40}{row['state']}\n")


def _state(run: RunFolder) -> str:
    """A few words; one run that cannot be read hides no other."""
    from testbed.folders import is_finished
    from testbed.progress import read_progress

    try:
        return "finished" if is_finished(run) else read_progress(run).headline
    except FedcoreError as error:
        return f"unreadable: {error}"


def _show(args: argparse.Namespace) -> None:
    from testbed.folders import find_run, is_finished
    from testbed.progress import read_progress

    run = find_run(args.run, runs=args.runs)
    if args.follow:
        from testbed.display import follow

        follow(run)
    if is_finished(run):
        from testbed.pipeline import show_summary

        show_summary(run, as_json=args.json)
    elif args.json:
        sys.stdout.write(json.dumps(read_progress(run).as_table(), indent=2) + "\n")
    else:
        sys.stdout.write(read_progress(run).as_text() + "\n")


def _export(args: argparse.Namespace) -> None:
    from testbed.exports import export
    from testbed.folders import find_run

    for path in export(find_run(args.run, runs=args.runs), format=args.format, out=args.out):
        sys.stdout.write(f"{path}\n")
