"""Which folder a run lives in: an unfinished run goes on, a finished one stays."""

from __future__ import annotations

import itertools
from pathlib import Path

from fedcore.config import Experiment
from fedcore.errors import ConfigError
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.registry import nearest

__all__ = [
    "all_runs",
    "find_experiment",
    "find_run",
    "find_study",
    "folders_for",
    "is_finished",
    "private_of",
]

_HERE = Path(__file__).parent
DEFAULT_RUNS = Path("runs")
DEFAULT_PRIVATE = Path(".leakwatt")
MASTER_FILE = "master"
"""In the folder of private folders: the machine's own secret."""


def find_experiment(given: Path) -> Path:
    """An experiment file: as given, or one that Leakwatt ships, by its name ("quickstart").

    Raises:
        ConfigError: there is no such file; the message lists the shipped ones.
    """
    return _find(given, "experiments", what="experiment")


def find_study(given: Path) -> Path:
    """A study file: as given, or one that Leakwatt ships, by its name ("small").

    Raises:
        ConfigError: there is no such file; the message lists the shipped ones.
    """
    return _find(given, "experiments/paper", what="study")


def _find(given: Path, folder: str, *, what: str) -> Path:
    if given.is_file():
        return given
    # Beside this package in the wheel, beside the packages in a checkout.
    shipped = {
        path.stem: path
        for place in (_HERE / folder, _HERE.parent / folder)
        for path in place.glob("*.toml")
    }
    if given.name in shipped:
        return shipped[given.name]
    raise ConfigError(
        f"no {what} file {given} (shipped: {', '.join(sorted(shipped))})"
        f"{nearest(given.stem, sorted(shipped))}"
    )


def is_finished(run: RunFolder) -> bool:
    """Whether the run has come to its report."""
    return (run.report / "index.html").exists()


def folders_for(
    experiment: Experiment, *, runs: Path, private: Path, fresh: bool
) -> tuple[RunFolder, PrivateFolder]:
    """The folder to run an experiment in.

    The first run of an experiment is `<id>`, the next `<id>-2` and so on. An unfinished one is
    gone on with, unless `fresh` asks for a new one.
    """
    for number in itertools.count(1):
        name = experiment.id if number == 1 else f"{experiment.id}-{number}"
        run = RunFolder(runs / name)
        if not run.root.exists() or not (fresh or is_finished(run)):
            return run, PrivateFolder(private / name)
    raise AssertionError("unreachable: counting does not end")


def all_runs(runs: Path) -> list[RunFolder]:
    """All runs under a folder, oldest first."""
    folders = [path.parent for path in runs.glob("*/experiment.json")]
    return [RunFolder(f) for f in sorted(folders, key=lambda f: f.stat().st_mtime)]


def find_run(name: str, *, runs: Path) -> RunFolder:
    """A run by its folder's path or name, or "latest".

    Raises:
        ConfigError: there is no such run; the message lists what there is.
    """
    known = all_runs(runs)
    if name == "latest" and known:
        return known[-1]
    for path in (Path(name), runs / name):
        if (path / "experiment.json").exists():
            return RunFolder(path)
    names = ", ".join(run.root.name for run in known) or "none yet"
    raise ConfigError(f"no run {name!r} under {runs} (there: {names})")


def private_of(run: RunFolder, *, private: Path) -> PrivateFolder:
    """The private folder that belongs to a run."""
    return PrivateFolder(private / run.root.name)
