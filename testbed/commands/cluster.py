"""run, up, prepare: an experiment on this machine."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fedcore.errors import PluginError
from testbed.commands.options import add_folders, add_json

__all__ = ["add_parsers"]


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three sub-commands."""
    run = commands.add_parser(
        "run", help="run an experiment on a local cluster, attack it, judge it, report it"
    )
    up = commands.add_parser("up", help="start the services only: no judge, no report")
    prepare = commands.add_parser(
        "prepare", help="write what services need (shards, keys, certificates), start nothing"
    )
    for parser in (run, up, prepare):
        parser.add_argument(
            "experiment", type=Path, help="experiment file (TOML), or the name of a shipped one"
        )
        add_folders(parser)
    for parser in (run, up):
        parser.add_argument(
            "--fresh", action="store_true", help="a new run even if an unfinished one could go on"
        )
        parser.add_argument("--quiet", action="store_true", help="no progress display")
        parser.add_argument(
            "--python",
            action="append",
            default=[],
            type=_interpreter,
            metavar="BACKEND=PATH",
            help="interpreter of the clients of a backend, e.g. lava=.venv-lava/bin/python (this "
            "one); may be repeated",
        )
    add_json(run)
    prepare.add_argument("--run-folder", type=Path, help="instead of a folder under --runs")
    prepare.add_argument("--private-folder", type=Path, help="instead of a folder under --private")
    run.set_defaults(execute=_run)
    up.set_defaults(execute=_up)
    prepare.set_defaults(execute=_prepare)


def _run(args: argparse.Namespace) -> None:
    from testbed.pipeline import open_run, run_services, score_and_report

    run = open_run(args.experiment, runs=args.runs, private=args.private, fresh=args.fresh)
    run_services(run, quiet=args.quiet or args.json, pythons=dict(args.python))
    score_and_report(run.folder, run.private, as_json=args.json)


def _up(args: argparse.Namespace) -> None:
    from testbed.pipeline import open_run, run_services

    run = open_run(args.experiment, runs=args.runs, private=args.private, fresh=args.fresh)
    run_services(run, quiet=args.quiet, pythons=dict(args.python))
    sys.stdout.write(f"run folder      {run.folder.root}\nprivate folder  {run.private.root}\n")


def _interpreter(text: str) -> tuple[str, str]:
    """An argparse type: a backend and the interpreter that has its packages."""
    from edge_client.backends.base import BACKENDS

    backend, _, path = text.partition("=")
    if not (backend and os.access(path, os.X_OK)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not BACKEND=PATH with the path of a Python interpreter"
        )
    try:
        BACKENDS.where(backend)
    except PluginError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return backend, str(Path(path).absolute())


def _prepare(args: argparse.Namespace) -> None:
    from fedcore.layout import PrivateFolder, RunFolder
    from testbed.experiment import load_checked, prepare
    from testbed.folders import MASTER_FILE, find_experiment, folders_for
    from testbed.oddities import tell_notes

    file = find_experiment(args.experiment)
    experiment = load_checked(file)
    folder, private = folders_for(experiment, runs=args.runs, private=args.private, fresh=False)
    master_file = args.private / MASTER_FILE
    if args.run_folder:
        folder = RunFolder(args.run_folder)
    if args.private_folder:
        private = PrivateFolder(args.private_folder)
        master_file = private.root / MASTER_FILE
    prepare(experiment, folder, private, master_file=master_file, where=file.name)
    tell_notes(experiment, where=file.name)
    sys.stdout.write(f"run folder      {folder.root}\nprivate folder  {private.root}\n")
