"""study: networks, data and attacks in every combination of a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["add_parsers"]


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    study = commands.add_parser(
        "study", help="attack networks, data and encodings in every combination of a study file"
    )
    study.add_argument(
        "file", type=Path, help='a study file, or the name of a shipped one ("small", "full")'
    )
    study.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="ROOT",
        help="folder with data sets; may be given again",
    )
    study.add_argument("--out", type=Path, help="folder for the results (studies/<name>)")
    study.add_argument("--yes", action="store_true", help="start a long study, too")
    study.add_argument(
        "--draw-only", action="store_true", help="tables and page of what there is; run nothing"
    )
    study.set_defaults(execute=_study)


def _study(args: argparse.Namespace) -> int:
    import torch

    from testbed.folders import find_study
    from testbed.study.design import load_study
    from testbed.study.page import write_page
    from testbed.study.results import StudyFolder
    from testbed.study.running import read_results, run_study

    torch.set_num_threads(1)  # seconds of CPU time are compared
    file = find_study(args.file)
    study = load_study(file)
    folder = StudyFolder(args.out or Path("studies") / study.name)
    if args.draw_only:
        results = read_results(folder)
    else:
        results = run_study(study, file=file, roots=args.data, folder=folder, agreed=args.yes)
    sys.stdout.write(f"{write_page(results)}\n")
    return int(any(outcome.state == "broken" for _, outcome in results.outcomes))
