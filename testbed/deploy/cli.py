"""`leakwatt deploy [up|status|logs|collect|update|remove] [BOARDS.toml]`: clients onto boards.

Exit codes as those of `leakwatt`; boards that can be reached are served even if others cannot.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedcore.config import Experiment
from fedcore.errors import ConfigError, RunError
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.registry import nearest
from testbed.commands.options import add_folders
from testbed.deploy.boards import Boards, check_boards, load_boards
from testbed.deploy.inventory import inventory
from testbed.deploy.package import package_for
from testbed.deploy.playbooks import play
from testbed.deploy.records import store
from testbed.folders import find_run, private_of

__all__ = ["main"]

_BESIDE = Path("boards.toml")
_STATUS = ("state", "since", "result", "code", "restarts", "pulse_s", "records")


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One call: the boards that it is for, and where things are."""

    boards: Boards
    experiment: Experiment
    run: RunFolder
    private: PrivateFolder
    scratch: Path
    options: tuple[str, ...]
    is_dry: bool
    lines: int

    def play(
        self, name: str, *, package: Path | str = "", quiet: bool = False, **more: Any
    ) -> None:
        """One playbook on the boards."""
        play(
            name,
            inventory(self.boards, self.experiment, self.private, package=package),
            scratch=self.scratch,
            variables={f"leakwatt_{key}": value for key, value in more.items()},
            options=self.options,
            quiet=quiet,
        )

    def answers(self, name: str, **more: Any) -> Iterator[tuple[str, Path]]:
        """Play quietly; what came back by client, then the fault of those that gave nothing."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        fault: RunError | None = None
        try:
            self.play(name, quiet=True, answers=str(folder), **more)
        except RunError as error:
            fault = error
        for board in self.boards.boards:
            if (folder / board.client).exists():
                yield board.client, folder / board.client
        if fault:
            raise fault


def main(argv: Sequence[str] | None = None) -> int:
    """Do one action on every board, or on those that --only names.

    Raises:
        ConfigError: the boards file or the run behind it is wrong.
        RunError: a board failed; what it said went before.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in (*_ACTIONS, "-h", "--help"):
        words.insert(0, "up")
    args = _parser().parse_args(words)
    with tempfile.TemporaryDirectory(prefix="leakwatt-deploy-") as scratch:
        _ACTIONS[args.action][0](_task(args, Path(scratch)))
    return 0


def _task(args: argparse.Namespace, scratch: Path) -> _Task:
    boards = load_boards(args.boards)
    run = find_run(boards.run, runs=args.runs)
    experiment, private = run.read_experiment(), private_of(run, private=args.private)
    check_boards(boards, experiment, private, where=args.boards.name)
    options = [*(["--check"] if args.check else ()), *(["--ask-become-pass"] if args.ask else ())]
    return _Task(
        boards=_only(boards, args.only),
        experiment=experiment,
        run=run,
        private=private,
        scratch=scratch,
        options=tuple(options),
        is_dry=args.check,
        lines=args.lines,
    )


def _only(boards: Boards, clients: Sequence[str]) -> Boards:
    known = [board.client for board in boards.boards]
    for client in clients:
        if client not in known:
            raise ConfigError(f"--only: no board has client {client!r}{nearest(client, known)}")
    kept = tuple(board for board in boards.boards if not clients or board.client in clients)
    return replace(boards, boards=kept)


def _up(task: _Task) -> None:
    task.play("up", package=package_for(task.boards.leakwatt, scratch=task.scratch))


def _update(task: _Task) -> None:
    task.play("update", package=package_for(task.boards.leakwatt, scratch=task.scratch))


def _status(task: _Task) -> None:
    rows: list[tuple[str, ...]] = [("client", *_STATUS)]
    try:
        for client, file in task.answers("tell", script="status.sh"):
            lines = (line.partition("=") for line in file.read_text().splitlines())
            said = {key: value for key, equals, value in lines if equals}
            rows.append((client, *(said.get(name) or "-" for name in _STATUS)))
    finally:  # a board that does not answer hides no other
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _logs(task: _Task) -> None:
    for client, file in task.answers("tell", script="logs.sh", lines=task.lines):
        for line in file.read_text().splitlines():
            sys.stdout.write(f"{client}  {line}\n")


def _collect(task: _Task, *, stop: bool = False) -> None:
    for client, archive in task.answers("collect", stop=stop):
        n_new = store(archive, client_id=client, experiment=task.experiment, run=task.run)
        sys.stdout.write(f"{client}: {n_new} new records\n")


def _remove(task: _Task) -> None:
    if not task.is_dry:  # else nothing may stop
        _collect(task, stop=True)
    task.play("remove")


_ACTIONS: dict[str, tuple[Callable[[_Task], None], str]] = {
    "up": (_up, "install, configure and start every client; again: what differs (the default)"),
    "status": (_status, "what every client's service does"),
    "logs": (_logs, "the end of every client's log"),
    "collect": (_collect, "bring sealed records into the run's vault; they stay on the boards"),
    "update": (_update, "install this Leakwatt, restart the clients that run"),
    "remove": (_remove, "collect sealed records, then take away all that up brought"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leakwatt deploy",
        description="Clients onto boards, over SSH with Ansible. See docs/boards.md.",
    )
    parser.set_defaults(check=False, lines=0)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (_, text) in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        add = action.add_argument
        add("boards", type=Path, nargs="?", default=_BESIDE, help="boards file (%(default)s)")
        add_folders(action)
        add("--only", action="append", default=[], metavar="CLIENT", help="may be repeated")
        add("--ask", action="store_true", help="ask for the password that sudo wants on the boards")
        if name in ("up", "update", "remove"):
            add("--check", action="store_true", help="dry run: tell what would change")
        if name == "logs":
            add("--lines", type=int, default=20, metavar="N", help="of each (%(default)s)")
    return parser
