"""Arguments that several sub-commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from testbed.folders import DEFAULT_PRIVATE, DEFAULT_RUNS

__all__ = ["add_folders", "add_json", "add_run"]


def add_folders(parser: argparse.ArgumentParser) -> None:
    """--runs and --private."""
    parser.add_argument(
        "--runs", type=Path, default=DEFAULT_RUNS, help="where runs are kept (%(default)s)"
    )
    parser.add_argument(
        "--private",
        type=Path,
        default=DEFAULT_PRIVATE,
        help="what the attacker must not read: shards, secrets, the judge's key (%(default)s)",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run, by name or path, with its folders."""
    parser.add_argument(
        "run", nargs="?", default="latest", help="name or folder of a run (%(default)s)"
    )
    add_folders(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON for a script")
