"""A study from its file to its page: cell after cell, and on from where it was."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedcore.errors import ConfigError, FedcoreError
from testbed.report.words import seconds_text
from testbed.study.cells import Laboratory, Told
from testbed.study.costs import Estimate, costs_of, estimate, read_costs
from testbed.study.design import Cell, Study
from testbed.study.results import Outcome, StudyFolder

__all__ = ["Results", "read_results", "run_study"]

log = logging.getLogger(__name__)

_TOLD_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Results:
    """A study with all that came of it so far.

    Attributes:
        code: fingerprint of the program.
        outcomes: every cell of the study, in its order.
    """

    folder: StudyFolder
    study: Study
    code: str
    outcomes: tuple[tuple[Cell, Outcome], ...]


def read_results(folder: StudyFolder) -> Results:
    """What lies in a folder, whatever program made it.

    Raises:
        RunError: no study ran there, or a file is damaged.
    """
    study, code = folder.read()
    outcomes = tuple((cell, folder.outcome(cell, code)) for cell in study.cells)
    return Results(folder=folder, study=study, code=code, outcomes=outcomes)


def run_study(
    study: Study, *, file: Path, roots: Sequence[Path], folder: StudyFolder, agreed: bool
) -> Results:
    """Run every cell that has no result yet, data set by data set, so that each is read once.

    Args:
        study: as read.
        file: that it was read from.
        roots: folders with data sets.
        folder: where results go.
        agreed: whether the person agreed to a study that asks first.

    Raises:
        ConfigError: the study asks first and nobody agreed; the message has its length.
        RunError: another process runs a study in this folder, or a file there is damaged.
        StorageError: the folder cannot be written, or its disk is full.
    """
    laboratory = Laboratory(roots=roots, folder=folder)
    cells = study.cells
    done = {i: folder.outcome(cell, laboratory.code) for i, cell in enumerate(cells)}
    open_cells = sorted(
        (i for i, outcome in done.items() if not outcome.is_final),
        key=lambda i: list(study.data).index(cells[i].data),
    )
    shipped = read_costs(file.parent / study.costs) if study.costs else []

    def left(numbers: Sequence[int]) -> Estimate:
        finished = [(cells[i], outcome) for i, outcome in done.items()]
        return estimate(
            [cells[i] for i in numbers],
            [*shipped, *costs_of(finished)],
            trained={cell.network_key for cell, outcome in finished if outcome.state == "done"},
        )

    ahead = left(open_cells)
    _say(f"{study.name}: {len(cells)} cells, {len(open_cells)} to run, {_length(ahead)}")
    if study.ask_first and not agreed and open_cells:
        raise ConfigError(
            f"{file.name} is long: {len(open_cells)} cells to run, {_length(ahead)}; "
            "add --yes to start it"
        )
    with folder.hold():
        folder.begin(study, laboratory.code)
        for n_before, i in enumerate(open_cells):
            tell = _Telling(f"cell {len(cells) - len(open_cells) + n_before + 1} of {len(cells)}")
            done[i] = _outcome(laboratory, cells[i], tell)
            folder.keep(cells[i], laboratory.code, done[i])
            rest = _length(left(open_cells[n_before + 1 :]))
            _say(f"{tell.place}: {_summary(cells[i], done[i])}; left: {rest}")
        return read_results(folder)


def _outcome(laboratory: Laboratory, cell: Cell, tell: Told) -> Outcome:
    """What comes of a cell; a fault of one attack does not cost all the others."""
    try:
        return laboratory.run(cell, tell=tell)
    except FedcoreError:
        raise
    except Exception as fault:
        log.exception("a cell broke")
        return Outcome(state="broken", why=f"{type(fault).__name__}: {fault}")


class _Telling:
    """Says now and then how far a long attack is; the network may have been trained before it."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._said_s: float | None = None

    def __call__(self, n: int, of: int) -> None:
        if self._said_s is None:
            self._said_s = time.monotonic()
        elif time.monotonic() - self._said_s > _TOLD_EVERY_S:
            self._said_s = time.monotonic()
            _say(f"{self.place}: {n} of {of} iterations")


def _length(ahead: Estimate) -> str:
    known = f"about {seconds_text(ahead.cpu_s)} of CPU time"
    if not ahead.n_unknown:
        return known
    unknown = f"{ahead.n_unknown} attacks and trainings not measured yet"
    return f"{known} and {unknown}" if ahead.cpu_s else unknown


def _summary(cell: Cell, outcome: Outcome) -> str:
    name = " ".join(
        part
        for part in (
            cell.data,
            cell.network,
            cell.twin,
            f"{cell.coding} T={cell.encoding.n_steps}",
            cell.surrogate,
            cell.stage,
            f"batch {cell.batch_size}",
            cell.attack,
        )
        if part
    )
    if outcome.state == "done":
        return f"{name}: {outcome.cpu_s:.1f} CPU s"
    return f"{name}: {outcome.state} ({outcome.why})"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
