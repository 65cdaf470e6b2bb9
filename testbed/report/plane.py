"""The energy-versus-leakage plane: what an update costs against what it gives away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedcore.types import Missing
from testbed.costs import MeanEnergy, best_energy
from testbed.findings import margin
from testbed.metrics import METRICS
from testbed.report.canvas import INK, MUTED, PAPER, Drawing, Look, draw, look_of, watermark
from testbed.report.words import energy_text, estimate_text, final_accuracy
from testbed.results import ArmResults
from testbed.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plane_figures"]

_MOST_NAMED = 2  # more names beside their marks would overlap; a legend has them then


class _Point(NamedTuple):
    """Where both values are there, a place in the plane."""

    energy: MeanEnergy
    height: Estimate


@dataclass(frozen=True, kw_only=True)
class _Part:
    """An arm, or a part of one, as it is drawn.

    Attributes:
        whole: of all its victims, or why it has no place.
        rounds: by victim round, those whose joules are of the whole's kind.
    """

    name: str
    accuracy: str
    look: Look
    whole: _Point | Missing
    rounds: Mapping[int, _Point]

    @property
    def kind(self) -> str:
        """Of its joules, or "" without any."""
        return "" if isinstance(self.whole, Missing) else self.whole.energy.kind

    @property
    def points(self) -> list[_Point]:
        """The places of its rounds, and its own last."""
        return [*self.rounds.values()] + ([] if isinstance(self.whole, Missing) else [self.whole])


def plane_figures(
    arms: Sequence[tuple[str, ArmResults]], *, metric: str, name: str, into: Path, of: str = ""
) -> list[Drawing]:
    """Energy against leakage: one large mark per arm, a small one per victim round.

    Measured and modelled joules share no axis: where both occur there are two figures.

    Args:
        arms: or parts of arms, each with what to call it.
        metric: registered name.
        name: of the files.
        into: the figures' folder.
        of: what these are parts of, for the title.
    """
    parts = [
        _part(called, arm, metric, look=look_of(position))
        for position, (called, arm) in enumerate(arms)
    ]
    label = METRICS.get(metric).label
    kinds = sorted({part.kind for part in parts if part.kind}) or [""]
    return [
        _figure(
            [part for part in parts if part.kind in (kind, "")],
            is_modelled=kind == "modelled",
            metric=metric,
            title=", ".join(filter(None, [f"Energy against leakage ({label})", of])),
            name=f"{name}-{kind}" if len(kinds) > 1 else name,
            into=into,
        )
        for kind in kinds
    ]


def _part(name: str, arm: ArmResults, metric: str, *, look: Look) -> _Part:
    """Its places: the energy is that of the very updates that were attacked."""
    whole: _Point | Missing
    rounds: dict[int, _Point] = {}
    found = arm.findings
    if isinstance(found, Missing):
        whole = found
    else:
        victims = {attempt.ticket for attempt in found.attempts}
        costs = [cost for ticket, cost in arm.costs.items() if ticket in victims]
        whole = _point(best_energy(costs), margin(found.summary(metric)))
        kind = "" if isinstance(whole, Missing) else whole.energy.kind
        for number in found.rounds:
            point = _point(
                best_energy([cost for cost in costs if cost.ticket.round == number]),
                margin(found.summary(metric, of_round=number)),
            )
            if not isinstance(point, Missing) and point.energy.kind == kind:
                rounds[number] = point
    return _Part(name=name, accuracy=final_accuracy(arm), look=look, whole=whole, rounds=rounds)


def _point(energy: MeanEnergy | Missing, height: Estimate | Missing) -> _Point | Missing:
    if isinstance(energy, Missing):
        return energy
    return height if isinstance(height, Missing) else _Point(energy, height)


def _figure(
    parts: Sequence[_Part], *, is_modelled: bool, metric: str, title: str, name: str, into: Path
) -> Drawing:
    label, unit, digits = (getattr(METRICS.get(metric), n) for n in ("label", "unit", "digits"))
    sources = {part.whole.energy.source for part in parts if isinstance(part.whole, _Point)}

    def plot(axes: Axes) -> None:
        axes.axhspan(-1e3, 0, color=MUTED, alpha=0.08, lw=0)
        axes.axhline(0, color=INK, lw=1)
        if is_modelled:
            watermark(axes, "MODELLED")
        heights = [0.0]
        for part in parts:
            for point in part.rounds.values():
                heights += _mark(axes, point, look=part.look)
            if isinstance(part.whole, _Point):
                text = f"{part.name} · {part.accuracy}"
                if len(sources) > 1:  # what lies inside one meter's joules is not inside another's
                    text += f"\n{part.whole.energy.source}"
                heights += _mark(axes, part.whole, look=part.look, name=text, is_whole=True)
                if len(parts) <= _MOST_NAMED:
                    _name(axes, part.whole, text)
        room = 0.12 * (max(heights) - min(heights)) or 1.0
        axes.set_ylim(min(heights) - room, max(heights) + room)
        axes.set_xlim(left=0)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=6)
        _name_rounds(axes, parts)
        if len(parts) > _MOST_NAMED:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, labelspacing=0.3)
        axes.set_xlabel(
            "joules per attacked client-round" + (", MODELLED" if is_modelled else ", measured")
        )
        axes.set_ylabel(f"{label} above the better baseline" + (f" ({unit})" if unit else ""))
        axes.annotate(
            "no better than a guess",
            (1, 0),
            xycoords=("axes fraction", "data"),
            xytext=(-4, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=MUTED,
        )

    said = "; ".join(
        f"{part.name} has no place ({part.whole.why})"
        if isinstance(part.whole, Missing)
        else f"{part.name}: {energy_text(part.whole.energy)}, "
        f"{estimate_text(part.whole.height, digits=digits, unit=unit)} above the better "
        f"baseline, accuracy {part.accuracy}"
        for part in parts
    )
    return draw(
        name,
        plot,
        title=title,
        alt=f"Energy against leakage. {said}",
        into=into,
        note="bars: 95 % over victims (up, down); "
        + ("the energy model's interval" if is_modelled else "95 % of the mean energy")
        + " (left, right)",
        size_inch=(4.7, 3.6),
    )


def _mark(
    axes: Axes, point: _Point, *, look: Look, name: str = "", is_whole: bool = False
) -> list[float]:
    """Draw one point, a whole one with its intervals; return the heights that it needs."""
    energy, height = point
    if is_whole:
        axes.errorbar(
            energy.value_j,
            height.value,
            xerr=[[energy.value_j - energy.low_j], [energy.high_j - energy.value_j]],
            yerr=[[height.value - height.low], [height.high - height.value]],
            color=look.colour,
            lw=1.4,
            capsize=3,
            zorder=3,
        )
    axes.plot(
        energy.value_j,
        height.value,
        marker=look.marker,
        ms=10 if is_whole else 5,
        color=look.colour,
        mfc=PAPER if energy.kind == "modelled" else look.colour,
        mew=2 if is_whole else 1,
        alpha=1 if is_whole else 0.8,
        zorder=4 if is_whole else 2,
        ls="",
        label=name or None,
    )
    return [height.low, height.high] if is_whole else [height.value]


def _name(axes: Axes, point: _Point, text: str) -> None:
    axes.annotate(
        text,
        (point.energy.value_j, point.height.value),
        xytext=(9, 9),
        textcoords="offset points",
        fontsize=9.5,
        weight="bold",
        color=INK,
        zorder=5,
    )


def _name_rounds(axes: Axes, parts: Sequence[_Part]) -> None:
    """Name the first and the last victim round of each part, where no mark and no name is near."""
    taken = [_place(axes, part.points[-1]) for part in parts if part.points]
    for part in parts:
        for number in sorted({min(part.rounds), max(part.rounds)}) if part.rounds else ():
            x, y = _place(axes, part.rounds[number])
            # In hundredths of an inch; a name is less than 32 wide and 13 high.
            if any(-2 < x - left < 45 and abs(y - low) < 16 for left, low in taken):
                continue
            taken.append((x, y))
            axes.annotate(
                f"r{number}",
                (part.rounds[number].energy.value_j, part.rounds[number].height.value),
                xytext=(-5, -3),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=MUTED,
                zorder=5,
            )


def _place(axes: Axes, point: _Point) -> tuple[float, float]:
    """Where a point lies on the paper."""
    x, y = axes.transData.transform((point.energy.value_j, point.height.value))
    return float(x), float(y)
