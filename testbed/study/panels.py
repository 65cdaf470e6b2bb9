"""A grid laid out for reading: one panel per data set and network, series against one axis."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedcore.types import Missing
from testbed.report.canvas import MUTED, N_LOOKS, Drawing, draw, look_of
from testbed.statistics import Estimate
from testbed.study.design import Axis, Cell, Grid
from testbed.study.results import Outcome
from testbed.study.running import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AXIS_NAMES", "Panel", "panels_of"]

AXIS_NAMES: dict[Axis, str] = {
    "attack": "attack",
    "batch_size": "examples per update",
    "coding": "encoding",
    "n_steps": "steps of time",
    "surrogate": "surrogate",
}
_TOP_DB = 60  # above it a difference says nothing to the eye, and exact recovery is at 140
_MAY_STAND_APART = ("seed", "stage")  # in panels of their own, in this order
_ROOM = 0.7  # that the series of one place share


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Cells of one grid with the same data and network.

    Attributes:
        title: data, network, and what else its cells share and other panels' do not.
        ticks: values along the grid's axis, in its order.
        series: what the cells differ in otherwise -> tick -> the cell's result.
    """

    grid: Grid
    title: str
    ticks: tuple[str, ...]
    series: dict[str, dict[str, tuple[Cell, Outcome]]]

    def figure(self, *, into: Path) -> Drawing | None:
        """PSNR above the mean image's; None where no cell has it."""
        points = {
            name: [(self.ticks.index(tick), over) for tick, over in _margins(row)]
            for name, row in self.series.items()
        }
        points = {name: found for name, found in points.items() if found}
        if not points:
            return None

        def plot(axes: Axes) -> None:
            axes.axhline(0, color=MUTED, lw=1, ls=(0, (2, 2)))
            shifts = np.linspace(-_ROOM / 2, _ROOM / 2, len(points) + 2)[1:-1]
            for place, (name, found) in enumerate(points.items()):
                look = look_of(place)
                axes.errorbar(
                    [x + shifts[place] for x, _ in found],
                    [min(over.value, _TOP_DB) for _, over in found],
                    yerr=[
                        over.value - over.low if over.value < _TOP_DB else 0 for _, over in found
                    ],
                    fmt=look.marker,
                    color=look.colour,
                    ms=5,
                    capsize=2.5,
                    lw=1.2,
                    label=name,
                )
            axes.set_xticks(range(len(self.ticks)), self.ticks)
            if len(self.ticks) >= 5:
                axes.tick_params(axis="x", labelrotation=45)
                for label in axes.get_xticklabels():
                    label.set_horizontalalignment("right")
            axes.set_xlim(-0.5, len(self.ticks) - 0.5)
            axes.set_xlabel(AXIS_NAMES[self.grid.x])
            axes.set_ylabel("PSNR over the mean image (dB)")
            axes.set_ylim(top=min(axes.get_ylim()[1], 1.06 * _TOP_DB))
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=7.5)

        return draw(
            "-".join([self.grid.name, *re.findall(r"[\w]+", self.title)]),
            plot,
            title=self.title,
            alt=f"PSNR above the mean image's by {AXIS_NAMES[self.grid.x]}, for "
            f"{', '.join(points)}; the table has the numbers.",
            into=into,
            note=f"bars: 95 % over victims; 0: a guess without the update; {_TOP_DB}: or more",
            size_inch=(5.0, 3.4),
        )


def panels_of(results: Results, grid: Grid) -> list[Panel]:
    """The panels of one grid: seeds and stages have their own where there are many series."""
    outcomes = {cell.digest(""): outcome for cell, outcome in results.outcomes}
    cells = [(cell, outcomes[cell.digest("")]) for cell in results.study.cells_of(grid)]
    named = _what_varies([cell for cell, _ in cells], but=grid.x)
    apart: list[str] = []
    for part in _MAY_STAND_APART:
        if len({_name(cell, named) for cell, _ in cells}) > N_LOOKS and part in named:
            named.remove(part)
            apart.append(part)
    panels: dict[str, dict[str, dict[str, tuple[Cell, Outcome]]]] = {}
    for cell, outcome in cells:
        parts = _parts(cell)
        title = ", ".join([cell.data, cell.network, *(parts[part] for part in apart)])
        series = panels.setdefault(title, {}).setdefault(_name(cell, named), {})
        series[cell.x[grid.x]] = cell, outcome
    ticks = tuple(dict.fromkeys(cell.x[grid.x] for cell, _ in cells))
    return [
        Panel(grid=grid, title=title, ticks=ticks, series=series)
        for title, series in panels.items()
    ]


def _parts(cell: Cell) -> dict[str, str]:
    """What tells cells of one panel apart, in words."""
    return {
        "twin": cell.twin.upper(),
        "attack": cell.attack,
        "stage": cell.stage,
        "coding": cell.coding,
        "n_steps": f"T = {cell.encoding.n_steps}" if cell.twin == "snn" else "",
        "surrogate": cell.surrogate,
        "batch_size": f"batch {cell.batch_size}",
        "seed": f"seed {cell.seed}",
    }


def _what_varies(cells: Sequence[Cell], *, but: Axis) -> list[str]:
    """The twin, and every other part that has several values."""
    values: dict[str, set[str]] = {}
    for cell in cells:
        for part, value in _parts(cell).items():
            values.setdefault(part, set()).add(value)
    return [
        part for part in values if part != but and (part == "twin" or len(values[part] - {""}) > 1)
    ]


def _name(cell: Cell, named: Sequence[str]) -> str:
    parts = _parts(cell)
    return " ".join(parts[part] for part in named if parts[part])


def _margins(row: dict[str, tuple[Cell, Outcome]]) -> list[tuple[str, Estimate]]:
    """Where the series has a score."""
    found = []
    for tick, (_, outcome) in row.items():
        if "psnr" in outcome.summaries:
            over = outcome.summaries["psnr"].differences["mean-image"]
            if not isinstance(over, Missing):
                found.append((tick, over))
    return found
