"""`leakwatt`: one command for everything. Heavy packages are imported by the sub-command that runs.

Exit codes: 0 done; 1 the run could not go on, or (doctor) nothing measures here; 2 bad input (file,
key, option); 3 refused by the aggregator; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Sequence

from fedcore.errors import FedcoreError
from testbed.commands import (
    cluster,
    data,
    energy,
    exposure,
    inspect,
    offline,
    operations,
    runs,
    study,
)

__all__ = ["main"]

_PROGRAMS = {
    "client": ("edge_client.cli", "take part as one client (on a board or in a container)"),
    "aggregator": ("aggregator.cli", "serve the rounds"),
    "attacker": ("attacker.cli", "watch the tap, or replay a journal, and invert updates"),
    "calibrate": ("hardware.commands.calibrate", "fit this board's sensor to a better meter"),
    "meter": ("hardware.commands.meter", "watch watts, or measure what any command costs"),
    "deploy": ("testbed.deploy.cli", "put clients onto boards over SSH; their status and logs"),
}
"""Programs with a command line of their own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command and turn what it raises into one line and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in _PROGRAMS:
            module = importlib.import_module(_PROGRAMS[arguments[0]][0])
            return int(module.main(arguments[1:]))
        args = _parser().parse_args(arguments)
        return int(args.execute(args) or 0)
    except FedcoreError as error:
        sys.stderr.write(f"leakwatt: {error}\n")
        return error.exit_code
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"leakwatt: the package {error.name!r} is not installed; "
            "pip install 'leakwatt[demo]' has every role\n"
        )
        return 2
    except BrokenPipeError:  # `leakwatt runs list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a folder that cannot be written, a full disk
        sys.stderr.write(f"leakwatt: {error.filename or 'input or output'}: {error.strerror}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"leakwatt: interrupted{_how_to_go_on(arguments)}\n")
        return 130


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """An experiment goes on where it was; `--fresh` would begin another run."""
    if arguments[:1] not in (["run"], ["up"], ["study"]):
        return ""
    again = ["leakwatt", *(a for a in arguments if a != "--fresh")]
    return f"; to go on: {shlex.join(again)}"


class _Version(argparse.Action):
    """Looks up the version only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from testbed.provenance import own_version

        sys.stdout.write(f"leakwatt {own_version()}\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leakwatt",
        description="Federated learning on edge boards: joules spent against data leaked.",
        epilog="leakwatt COMMAND --help says more about each.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print it and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    cluster.add_parsers(commands)
    for name, (_, text) in _PROGRAMS.items():
        commands.add_parser(name, help=text, add_help=False)  # handled before argparse
    data.add_parsers(commands)
    offline.add_parsers(commands)
    exposure.add_parsers(commands)
    runs.add_parsers(commands)
    study.add_parsers(commands)
    operations.add_parsers(commands)
    energy.add_parsers(commands)
    inspect.add_parsers(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
