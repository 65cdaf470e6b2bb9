"""An experiment from file to report, as `leakwatt run` does it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedcore.config import Experiment
from fedcore.errors import RunError
from fedcore.layout import PrivateFolder, RunFolder
from testbed.by_device import by_device, contradictions
from testbed.cluster import Cluster
from testbed.disclose import disclose
from testbed.display import Display
from testbed.experiment import load_checked, prepare
from testbed.folders import MASTER_FILE, find_experiment, folders_for
from testbed.interpreters import check_interpreters
from testbed.judge import judge
from testbed.oddities import tell_notes
from testbed.report.page import write_report
from testbed.report.summary import summary_table, summary_text
from testbed.results import load_results

__all__ = ["Run", "open_run", "run_services", "score_and_report", "show_report", "show_summary"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """An experiment with the two folders it runs in."""

    experiment: Experiment
    folder: RunFolder
    private: PrivateFolder


def open_run(file: Path, *, runs: Path, private: Path, fresh: bool) -> Run:
    """Load, check and prepare an experiment; go on with an unfinished run of it."""
    file = find_experiment(file)
    experiment = load_checked(file)
    folder, hidden = folders_for(experiment, runs=runs, private=private, fresh=fresh)
    prepare(experiment, folder, hidden, master_file=private / MASTER_FILE, where=file.name)
    tell_notes(experiment, where=file.name)
    return Run(experiment=experiment, folder=folder, private=hidden)


def run_services(run: Run, *, quiet: bool, pythons: Mapping[str, str] | None = None) -> None:
    """Federate, disclose what the threat model grants, attack; leave no process behind.

    Args:
        run: prepared.
        quiet: no display.
        pythons: interpreters of clients by backend, see `Cluster`.

    Raises:
        ConfigError: one of them does not have what its backend needs.
    """
    check_interpreters(run.experiment, pythons or {})
    with (
        Cluster(run.experiment, run.folder, run.private, pythons=pythons) as cluster,
        Display(run.experiment, run.folder, quiet=quiet) as display,
    ):
        cluster.watch(until=lambda: cluster.federation_is_over, on_tick=display.refresh)
        disclose(run.folder, run.private)
        cluster.watch(until=lambda: cluster.attack_is_over, on_tick=display.refresh)


def score_and_report(folder: RunFolder, private: PrivateFolder, *, as_json: bool) -> None:
    """Judge, write the page, print the summary."""
    judge(folder, private)
    show_report(folder, as_json=as_json)


def show_report(folder: RunFolder, *, as_json: bool) -> None:
    """Write the page and print the summary with its path.

    Raises:
        RunError: at the end, where a deployed form contradicts the trained one.
    """
    page = write_report(folder)
    show_summary(folder, as_json=as_json)
    if not as_json:
        sys.stdout.write(f"\nreport  {page}\n")
    if found := contradictions(by_device(load_results(folder))):
        raise RunError(f"the run is over, and its report says why it is wrong: {' '.join(found)}")


def show_summary(folder: RunFolder, *, as_json: bool) -> None:
    """Print what a finished run found."""
    if as_json:
        table = {"run": str(folder.root), "arms": summary_table(folder)}
        sys.stdout.write(json.dumps(table, indent=2) + "\n")
    else:
        sys.stdout.write(summary_text(folder))
