"""The strongest attack on each network, and the twins beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedcore.types import Missing
from testbed.findings import Summary
from testbed.statistics import Estimate, mean_with_interval
from testbed.study.design import Cell
from testbed.study.results import Outcome

__all__ = ["Strongest", "TwinRow", "twin_rows"]

_NO_CELL = Missing(why="no cell with scores")


@dataclass(frozen=True, kw_only=True)
class Strongest:
    """The attack with the highest mean PSNR on one network, among all that ran.

    Attributes:
        cell: its cell.
        outcome: its result.
    """

    cell: Cell
    outcome: Outcome

    @property
    def psnr(self) -> Summary:
        """Its scores."""
        return self.outcome.summaries["psnr"]


@dataclass(frozen=True, kw_only=True)
class TwinRow:
    """Two twins, attacked through updates of the same examples.

    Attributes:
        title: data, network, stage, batch and seed.
        ann: or why there is none.
        snn: over all encodings, steps and surrogates; or why there is none.
        difference: PSNR of the first minus the second, paired over victims.
    """

    title: str
    ann: Strongest | Missing
    snn: Strongest | Missing
    difference: Estimate | Missing


def twin_rows(outcomes: Sequence[tuple[Cell, Outcome]]) -> list[TwinRow]:
    """One row per data, network, stage, batch and seed that has a score."""
    rows: dict[str, list[tuple[Cell, Outcome]]] = {}
    for cell, outcome in outcomes:
        if outcome.state == "done" and outcome.summaries["psnr"].n:
            rows.setdefault(_title(cell), []).append((cell, outcome))
    return [_row(title, found) for title, found in rows.items()]


def _title(cell: Cell) -> str:
    seed = f", seed {cell.seed}" if cell.seed else ""
    batch = f", batch {cell.batch_size}" if cell.batch_size > 1 else ""
    return f"{cell.data}, {cell.network}, {cell.stage}{batch}{seed}"


def _row(title: str, found: Sequence[tuple[Cell, Outcome]]) -> TwinRow:
    ann, snn = (_strongest(found, twin=twin) for twin in ("ann", "snn"))
    difference: Estimate | Missing = _NO_CELL
    if isinstance(ann, Strongest) and isinstance(snn, Strongest):
        first, second = dict(_psnr_by_victim(ann)), dict(_psnr_by_victim(snn))
        both = sorted(first.keys() & second.keys())
        difference = mean_with_interval([first[victim] - second[victim] for victim in both])
    return TwinRow(title=title, ann=ann, snn=snn, difference=difference)


def _strongest(found: Sequence[tuple[Cell, Outcome]], *, twin: str) -> Strongest | Missing:
    best: Strongest | Missing = _NO_CELL
    for cell, outcome in found:
        if cell.twin == twin:
            each = Strongest(cell=cell, outcome=outcome)
            if isinstance(best, Missing) or _mean(each) > _mean(best):
                best = each
    return best


def _mean(one: Strongest) -> float:
    return float("-inf") if isinstance(one.psnr.mean, Missing) else one.psnr.mean.value


def _psnr_by_victim(one: Strongest) -> Iterator[tuple[str, float]]:
    for score in one.outcome.scores:
        if score.metric == "psnr" and not isinstance(score.value, Missing):
            yield score.ticket.client_id, score.value
