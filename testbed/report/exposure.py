"""Exposure as people read it: means over an arm's updates, what is missing counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from fedcore.types import Missing
from testbed.exposure import Exposure
from testbed.report.words import DASH, aligned, seconds_text

__all__ = ["ExposureTable", "exposure_cells", "exposure_table", "exposure_text"]


@dataclass(frozen=True, kw_only=True)
class ExposureTable:
    """What the page and the terminal show.

    Attributes:
        arms: the columns.
        lines: a label and one cell per arm.
        is_surrogate: whether some Jacobian is a spiking network's.
    """

    arms: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    is_surrogate: bool


def exposure_cells(rows: Sequence[Exposure]) -> list[tuple[str, str]]:
    """A label and a cell per line, over one arm's updates."""
    last = [row for row in rows if not isinstance(row.n_directions, Missing)]
    return [
        ("updates", f"{len(rows)}"),
        ("rank of first layer", _mean([row.first_layer_rank for row in rows], of=_limits(rows))),
        ("readout can be peeled", _peelable(rows)),
        ("zeros", _mean([100 * row.zero_share for row in rows], of=" %")),
        ("norm", _mean([row.norm for row in rows])),
        (
            "effective rank of the Jacobian",
            _mean([r.effective_rank for r in rows], of=_drawn(last)),
        ),
        ("smallest singular value", _mean([row.smallest for row in rows])),
        ("median singular value", _mean([row.median for row in rows])),
        ("draws at random", _names(rows)),
        ("noise on a value (sigma)", _mean([row.sigma for row in rows])),
        ("least MSE behind it (Cramer-Rao)", _mean([row.crb_mse for row in rows])),
        ("time per update with truth", _median_time(last)),
    ]


def exposure_table(arms: Mapping[str, Sequence[Exposure]]) -> ExposureTable | None:
    """One column per arm; None where no arm was scored."""
    if not any(arms.values()):
        return None
    columns = [exposure_cells(rows) for rows in arms.values()]
    labels = [label for label, _ in columns[0]]
    return ExposureTable(
        arms=tuple(arms),
        lines=tuple(
            (label, tuple(column[i][1] for column in columns)) for i, label in enumerate(labels)
        ),
        is_surrogate=any(row.is_surrogate for rows in arms.values() for row in rows),
    )


def exposure_text(arms: Mapping[str, Sequence[Exposure]]) -> str:
    """The same for a terminal."""
    table = exposure_table(arms)
    if table is None:
        return "no update was accepted yet\n"
    return "\n".join(aligned("", table.arms, table.lines)) + "\n"


def _mean(values: Sequence[float | Missing], *, of: str = "") -> str:
    found = [value for value in values if not isinstance(value, Missing)]
    return f"{fmean(found):.3g}{of}" if found else DASH


def _limits(rows: Sequence[Exposure]) -> str:
    limits = sorted({row.rank_limit for row in rows})
    return f" of {limits[0]}" if len(limits) == 1 else ""


def _drawn(rows: Sequence[Exposure]) -> str:
    drawn = sorted({f"{row.n_directions} of {row.n_inputs} {row.jacobian_of}" for row in rows})
    return f" (on {drawn[0]} values)" if len(drawn) == 1 else ""


def _names(rows: Sequence[Exposure]) -> str:
    return ", ".join(sorted({r.drawn_by for r in rows if isinstance(r.drawn_by, str)})) or DASH


def _peelable(rows: Sequence[Exposure]) -> str:
    found = [row.is_peelable for row in rows if not isinstance(row.is_peelable, Missing)]
    return f"{sum(found)} of {len(found)}" if found else DASH


def _median_time(rows: Sequence[Exposure]) -> str:
    """The first one also pays for loading the derivatives' formulae."""
    return seconds_text(median(row.duration_s for row in rows)) if rows else DASH
