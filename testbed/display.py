"""Progress for people: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedcore.config import Experiment
from fedcore.layout import RunFolder
from testbed.folders import is_finished
from testbed.progress import ArmProgress, Progress, read_progress

__all__ = ["Display", "follow"]

_LOOK_EVERY_S = 1.0  # reading the store costs CPU time that the clients need
_LINE_EVERY_S = 10.0


class Display:
    """Shows a run while it goes on. Use as a context manager and call `refresh` often.

    Args:
        quiet: show nothing.
    """

    def __init__(self, experiment: Experiment, run: RunFolder, *, quiet: bool) -> None:
        self._run = run
        self._n_clients = experiment.n_clients
        self._quiet = quiet
        self._started_s = time.monotonic()
        self._looked_s = self._printed_s = -1e9
        self._printed = ""
        console = Console(file=sys.stderr)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._title = f"{experiment.name}: {experiment.n_clients} clients, run {run.root}"

    def __enter__(self) -> Display:
        if self._live and not self._quiet:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and not self._quiet:
            self._live.stop()

    def refresh(self) -> None:
        """Look at the run again, at most once a second, and show what changed."""
        now_s = time.monotonic()
        if self._quiet or now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        progress = read_progress(self._run)
        if self._live:
            self._live.update(self._picture(progress), refresh=True)
        elif now_s - self._printed_s > _LINE_EVERY_S and progress.headline != self._printed:
            self._printed_s, self._printed = now_s, progress.headline
            sys.stderr.write(f"{now_s - self._started_s:5.0f} s  {progress.headline}\n")

    def _picture(self, progress: Progress) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("arm", "rounds", "", "accuracy", "updates", "attack", "", "objective"):
            table.add_column(heading, style="dim" if not heading else "", justify="left")
        for arm in progress.arms:
            table.add_row(*_cells(arm))
        elapsed_s = time.monotonic() - self._started_s
        foot = (
            f"{elapsed_s:4.0f} s   clients {progress.connected}/{self._n_clients}   "
            f"refused {progress.refused}   {progress.latest}   "
            "Ctrl-C stops; the same command goes on"
        )
        return Group(Text(self._title, style="bold"), table, Text(foot, style="dim"))


def _cells(arm: ArmProgress) -> list[RenderableType]:
    return [
        arm.arm,
        ProgressBar(total=arm.rounds, completed=arm.closed, width=20),
        f"{arm.closed}/{arm.rounds}",
        "-" if arm.accuracy is None else f"{arm.accuracy:.3f}",
        str(arm.updates),
        ProgressBar(total=arm.attack_iterations, completed=arm.attack_done, width=20),
        f"{arm.attack_done}/{arm.attack_iterations}",
        "-" if arm.attack_loss is None else f"{arm.attack_loss:.3g}",
    ]


def follow(run: RunFolder) -> None:
    """Show a run that other processes drive, until its report is written."""
    with Display(run.read_experiment(), run, quiet=False) as display:
        while not is_finished(run):
            display.refresh()
            time.sleep(0.25)
