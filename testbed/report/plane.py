"""The energy-versus-leakage plane: what an update costs against what it gives away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.types import Missing
from testbed.costs import MeanEnergy, best_energy
from testbed.findings import margin
from testbed.metrics import METRICS
from testbed.report.canvas import INK, MUTED, PAPER, Drawing, draw, look_of, watermark
from testbed.report.words import energy_text, estimate_text, final_accuracy
from testbed.results import ArmResults
from testbed.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plane_figure"]


def plane_figure(arms: Sequence[ArmResults], *, metric: str, into: Path) -> Drawing:
    """Energy against leakage: one large mark per arm, a small one per victim round."""
    label, unit = METRICS.get(metric).label, METRICS.get(metric).unit
    points = [(arm, *_plane_points(arm, metric)) for arm in arms]
    energies = [point[0] for _, whole, rounds in points for point in (whole, *rounds.values())]
    is_modelled = any(isinstance(e, MeanEnergy) and e.kind == "modelled" for e in energies)

    def plot(axes: Axes) -> None:
        axes.axhspan(-1e3, 0, color=MUTED, alpha=0.08, lw=0)
        axes.axhline(0, color=INK, lw=1)
        if is_modelled:
            watermark(axes, "MODELLED")
        heights = [0.0]
        for position, (arm, whole, rounds) in enumerate(points):
            look = look_of(position)
            for energy, height in rounds.values():
                heights += _mark(axes, energy, height, colour=look.colour, marker=look.marker)
            heights += _mark(
                axes,
                *whole,
                colour=look.colour,
                marker=look.marker,
                text=f"{arm.arm.name} · {final_accuracy(arm)}",
                is_whole=True,
            )
        room = 0.12 * (max(heights) - min(heights)) or 1.0
        axes.set_ylim(min(heights) - room, max(heights) + room)
        axes.set_xlim(left=0)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=6)
        _name_rounds(axes, [(whole, rounds) for _, whole, rounds in points])
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
        f"{arm.arm.name}: {energy_text(whole[0])}, "
        f"{estimate_text(whole[1], digits=METRICS.get(metric).digits, unit=unit)} above the better "
        f"baseline, accuracy {final_accuracy(arm)}"
        for arm, whole, _ in points
    )
    return draw(
        f"plane-{metric}",
        plot,
        title=f"Energy against leakage ({label})",
        alt=f"Energy against leakage. {said}",
        into=into,
        note="bars: 95 % over victims (up, down); "
        + ("the energy model's interval" if is_modelled else "95 % of the mean energy")
        + " (left, right)",
        size_inch=(4.7, 3.6),
    )


_Point = tuple[MeanEnergy | Missing, Estimate | Missing]


def _plane_points(arm: ArmResults, metric: str) -> tuple[_Point, dict[int, _Point]]:
    """Of all victims, and by victim round: the energy of the very updates that were attacked."""
    if isinstance(arm.findings, Missing):
        return (arm.findings, arm.findings), {}
    victims = {attempt.ticket for attempt in arm.findings.attempts}
    costs = [cost for ticket, cost in arm.costs.items() if ticket in victims]
    whole = best_energy(costs), margin(arm.findings.summary(metric))
    rounds = {
        number: (
            best_energy([cost for cost in costs if cost.ticket.round == number]),
            margin(arm.findings.summary(metric, of_round=number)),
        )
        for number in arm.findings.rounds
    }
    return whole, rounds


def _mark(
    axes: Axes,
    energy: MeanEnergy | Missing,
    height: Estimate | Missing,
    *,
    colour: str,
    marker: str,
    text: str = "",
    is_whole: bool = False,
) -> list[float]:
    """Draw one point with its intervals; return the heights that it needs."""
    if isinstance(energy, Missing) or isinstance(height, Missing):
        return []
    is_modelled = energy.kind == "modelled"
    if is_whole:
        axes.errorbar(
            energy.value_j,
            height.value,
            xerr=[[energy.value_j - energy.low_j], [energy.high_j - energy.value_j]],
            yerr=[[height.value - height.low], [height.high - height.value]],
            color=colour,
            lw=1.4,
            capsize=3,
            zorder=3,
        )
    axes.plot(
        energy.value_j,
        height.value,
        marker=marker,
        ms=10 if is_whole else 5,
        color=colour,
        mfc=PAPER if is_modelled else colour,
        mew=2 if is_whole else 1,
        alpha=1 if is_whole else 0.8,
        zorder=4 if is_whole else 2,
        ls="",
    )
    axes.annotate(
        text,
        (energy.value_j, height.value),
        xytext=(9, 9),
        textcoords="offset points",
        fontsize=9.5,
        weight="bold",
        color=INK,
        zorder=5,
    )
    return [height.low, height.high] if is_whole else [height.value]


def _name_rounds(axes: Axes, arms: Sequence[tuple[_Point, Mapping[int, _Point]]]) -> None:
    """Name the first and the last victim round of each arm, where no mark and no name is near."""
    taken = [place for whole, _ in arms for place in _places(axes, whole)]
    for _, rounds in arms:
        for number in sorted({min(rounds), max(rounds)}) if rounds else ():
            for x, y, at in _places(axes, rounds[number]):
                # In hundredths of an inch; a name is less than 32 wide and 13 high.
                if any(-2 < x - left < 45 and abs(y - low) < 16 for left, low, _ in taken):
                    continue
                taken.append((x, y, at))
                axes.annotate(
                    f"r{number}",
                    at,
                    xytext=(-5, -3),
                    textcoords="offset points",
                    ha="right",
                    fontsize=7.5,
                    color=MUTED,
                    zorder=5,
                )


def _places(axes: Axes, point: _Point) -> list[tuple[float, float, tuple[float, float]]]:
    """Where a point lies on the paper and among the data, if it has both values."""
    energy, height = point
    if isinstance(energy, Missing) or isinstance(height, Missing):
        return []
    at = (energy.value_j, height.value)
    x, y = axes.transData.transform(at)
    return [(float(x), float(y), at)]
