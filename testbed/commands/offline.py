"""attack, disclose, judge, report: on a run that is already there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcore.layout import PrivateFolder, RunFolder
from fedcore.strict import to_table
from testbed.commands import audit
from testbed.commands.options import add_json, add_run
from testbed.folders import find_run, private_of

__all__ = ["add_parsers"]


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the four sub-commands."""
    attack = commands.add_parser("attack", help="attack a run offline, or your own model's update")
    add_run(attack)
    attack.add_argument("--arm", help="only this arm")
    attack.add_argument("--attack", help="another attack than the experiment's")
    attack.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the attack"
    )
    attack.add_argument("--restarts", type=int, help="starts per victim")
    attack.add_argument("--iterations", type=int, help="gradient evaluations per start")
    attack.add_argument(
        "--device", default="cpu", help='"cpu", or "cuda" for a graphics card (%(default)s)'
    )
    audit.add_arguments(attack)
    attack.set_defaults(execute=_attack)

    disclose = commands.add_parser(
        "disclose", help="hand the attacker what the threat model grants, and nothing else"
    )
    judge = commands.add_parser("judge", help="score reconstructions against the sealed truth")
    report = commands.add_parser("report", help="write the page and figures of a run")
    for parser, execute in ((disclose, _disclose), (judge, _judge), (report, _report)):
        add_run(parser)
        parser.add_argument(
            "--private-folder", type=Path, help="instead of the run's folder under --private"
        )
        parser.set_defaults(execute=execute)
    for parser in (attack, disclose, judge, report):
        add_json(parser)


def _attack(args: argparse.Namespace) -> int:
    if audit.is_audit(args):
        audit.audit(args)
        return 0
    from attacker.cli import main as attacker

    arguments = ["replay", "--run", str(find_run(args.run, runs=args.runs).root)]
    for name in ("arm", "attack", "restarts", "iterations", "device"):
        if getattr(args, name) is not None:
            arguments += [f"--{name}", str(getattr(args, name))]
    for option in args.option:
        arguments += ["--option", option]
    if args.json:
        arguments.append("--json")
    return attacker(arguments)


def _disclose(args: argparse.Namespace) -> None:
    from testbed.disclose import disclose

    run, private = _folders(args)
    told = disclose(run, private)
    lines = [one.text for one in told]
    _tell(run, [to_table(one) for one in told], lines, as_json=args.json)


def _judge(args: argparse.Namespace) -> None:
    from testbed.judge import judge
    from testbed.report.summary import findings_table, findings_text

    run, private = _folders(args)
    found = judge(run, private)
    lines = [findings_text(one) for one in found]
    _tell(run, [findings_table(one) for one in found], lines, as_json=args.json)


def _report(args: argparse.Namespace) -> None:
    from testbed.pipeline import show_report

    show_report(_folders(args)[0], as_json=args.json)


def _tell(
    run: RunFolder, tables: Sequence[Mapping[str, Any]], lines: Sequence[str], *, as_json: bool
) -> None:
    """One line per arm, or all as JSON."""
    if as_json:
        table = {"run": str(run.root), "arms": tables}
        sys.stdout.write(json.dumps(table, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines))


def _folders(args: argparse.Namespace) -> tuple[RunFolder, PrivateFolder]:
    run = find_run(args.run, runs=args.runs)
    if args.private_folder:
        return run, PrivateFolder(args.private_folder)
    return run, private_of(run, private=args.private)
