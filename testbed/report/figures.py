"""The figures: what each shows, and the sentence that says it to who cannot see it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedcore.energy import Phase, PhaseRecord
from fedcore.types import Missing
from testbed.costs import WORK, MeasuredEnergy, best_energy, widest
from testbed.report.canvas import MUTED, PAPER, PHASE_COLOURS, Drawing, draw, look_of, watermark
from testbed.report.words import final_accuracy
from testbed.results import ArmResults
from testbed.statistics import Share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "accuracy_figure",
    "bytes_figure",
    "energy_figure",
    "latency_figure",
    "loss_figure",
]

_MAX_DEVICES = 24  # rows that stay readable; the export has all


def accuracy_figure(arms: Sequence[ArmResults], *, into: Path) -> Drawing:
    """Accuracy per evaluated round with Wilson intervals, and the line of chance."""

    def plot(axes: Axes) -> None:
        chance = 100 / arms[0].arm.model.n_classes
        axes.axhline(chance, color=MUTED, lw=1, ls=(0, (2, 2)))
        axes.annotate(
            f"chance, {chance:.0f} %",
            (1, chance),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3 if chance > 8 else 3),
            textcoords="offset points",
            ha="right",
            va="top" if chance > 8 else "bottom",
            fontsize=8,
            color=MUTED,
        )
        for position, arm in enumerate(arms):
            look = look_of(position)
            found = [(a.round, a.share) for a in arm.accuracies if isinstance(a.share, Share)]
            x = [number for number, _ in found]
            y = [100 * share.n_yes / share.n for _, share in found]
            axes.fill_between(
                x,
                [100 * share.low for _, share in found],
                [100 * share.high for _, share in found],
                color=look.colour,
                alpha=0.15,
                lw=0,
            )
            axes.plot(
                x, y, look.dash, color=look.colour, marker=look.marker, ms=4.5, label=arm.arm.name
            )
        axes.set_ylim(0, 103)
        axes.set_xlabel("round")
        axes.set_ylabel("accuracy (%)")
        axes.legend(loc="center right")

    said = "; ".join(f"{arm.arm.name} ends at {final_accuracy(arm)}" for arm in arms)
    return draw(
        "accuracy",
        plot,
        title="Accuracy",
        alt=f"Accuracy per round. {said}.",
        into=into,
        note="bands: 95 % (Wilson) over the held-out examples",
    )


def bytes_figure(arms: Sequence[ArmResults], *, into: Path) -> Drawing:
    """Bytes received per round and client: the mean, and the range over clients."""

    def plot(axes: Axes) -> None:
        for position, arm in enumerate(arms):
            by_round: dict[int, list[float]] = {}
            for update in arm.updates:
                by_round.setdefault(update.ticket.round, []).append(update.n_bytes / 1000)
            x = sorted(by_round)
            look = look_of(position)
            axes.fill_between(
                x,
                [min(by_round[r]) for r in x],
                [max(by_round[r]) for r in x],
                color=look.colour,
                alpha=0.2,
                lw=0,
            )
            axes.plot(
                x,
                [float(np.mean(by_round[r])) for r in x],
                look.dash,
                color=look.colour,
                label=arm.arm.name,
            )
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
        axes.set_xlabel("round")
        axes.set_ylabel("kB per client")
        axes.legend(loc="lower right")

    said = "; ".join(
        f"{arm.arm.name} sent {len(arm.updates)} updates, "
        f"{sum(update.n_bytes for update in arm.updates)} bytes in all"
        for arm in arms
    )
    return draw(
        "bytes",
        plot,
        title="Bytes received",
        alt=f"Bytes of each accepted update by round. {said}.",
        into=into,
        note="lines: mean over clients; bands: smallest to largest",
    )


def latency_figure(arm: ArmResults, *, into: Path) -> Drawing:
    """Mean wall time of each work phase, one bar per client."""
    clients = _devices(arm)

    def plot(axes: Axes) -> None:
        left = np.zeros(len(clients))
        for phase in WORK:
            width = np.array([1000 * _mean_seconds(arm, client, phase) for client in clients])
            axes.barh(
                clients,
                width,
                left=left,
                height=0.62,
                color=PHASE_COLOURS[phase],
                label=phase.value,
            )
            left += width
        _finish_bars(axes, "ms per client-round")

    return draw(
        f"latency-{arm.arm.name}",
        plot,
        title=f"Latency, {arm.arm.name}",
        alt=f"Mean wall time per phase and client in {arm.arm.name}; the table below has the "
        "numbers.",
        into=into,
        size_inch=(4.5, 1.1 + 0.32 * len(clients)),
    )


def energy_figure(arm: ArmResults, *, into: Path) -> Drawing | Missing:
    """Mean energy of each work phase, one bar per client; modelled joules are hatched."""
    clients = _devices(arm)
    found = {kind: _phase_energies(arm, clients, kind) for kind in ("measured", "modelled")}
    kind = next((kind for kind, energies in found.items() if energies is not None), None)
    if kind is None:
        why = best_energy(list(arm.costs.values()))
        return why if isinstance(why, Missing) else Missing(why="not every phase has an energy")
    energies = found[kind] or {}

    def plot(axes: Axes) -> None:
        left = np.zeros(len(clients))
        for phase, width in energies.items():
            bars: dict[str, Any] = {"color": PHASE_COLOURS[phase]}
            if kind == "modelled":
                bars = {"color": PAPER, "edgecolor": PHASE_COLOURS[phase], "hatch": "////"}
            axes.barh(clients, width, left=left, height=0.62, label=phase.value, **bars)
            left += width
        if kind == "modelled":
            watermark(axes, "MODELLED")
        _finish_bars(axes, "J per client-round" + (", MODELLED" if kind == "modelled" else ""))

    return draw(
        f"energy-{arm.arm.name}",
        plot,
        title=f"Energy, {arm.arm.name} ({kind})",
        alt=f"Mean {kind} energy per phase and client in {arm.arm.name}; the table below has the "
        "numbers.",
        into=into,
        size_inch=(4.5, 1.1 + 0.32 * len(clients)),
    )


def loss_figure(arms: Sequence[ArmResults], *, into: Path) -> Drawing:
    """The attack's own objective: chosen restart of every victim, and the median per arm."""

    def plot(axes: Axes) -> None:
        for position, arm in enumerate(arms):
            look = look_of(position)
            curves = [
                answer.loss_curves[answer.chosen]
                for answer in arm.reconstructions
                if not answer.failed and np.isfinite(answer.losses).any()
            ]
            for curve in curves:
                axes.plot(_steps(curve), curve, color=look.colour, lw=0.6, alpha=0.3)
            if len({len(curve) for curve in curves}) == 1:
                median = np.nanmedian(np.stack(curves), axis=0)
                axes.plot(
                    _steps(median), median, look.dash, color=look.colour, lw=2, label=arm.arm.name
                )
        axes.set_xlabel("share of the iterations (%)")
        axes.set_ylabel("own objective")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()

    said = "; ".join(f"{len(arm.reconstructions)} victims in {arm.arm.name}" for arm in arms)
    return draw(
        "attack-loss",
        plot,
        title="The attack's own loss",
        alt=f"The attacker's objective over its iterations, {said}.",
        into=into,
        note="thin: the chosen restart of each victim; thick: their median",
    )


def _steps(curve: np.ndarray) -> np.ndarray:
    return np.linspace(0, 100, len(curve))


def _devices(arm: ArmResults) -> list[str]:
    clients = sorted({report.ticket.client_id for report in arm.reports}, reverse=True)
    return clients[-_MAX_DEVICES:]


def _mean_seconds(arm: ArmResults, client: str, phase: Phase) -> float:
    """Mean over the client's updates of the time in one phase; 0 where the phase never was."""
    found = [
        sum(record.duration_s for record in report.phases if record.phase is phase)
        for report in arm.reports
        if report.ticket.client_id == client and report.ticket in arm.costs
    ]
    return float(np.mean(found)) if found else 0.0


def _phase_energies(
    arm: ArmResults, clients: Sequence[str], kind: str
) -> dict[Phase, np.ndarray] | None:
    """Mean joules by phase, [client]; None if a work phase of any client has none of this kind."""
    costs = arm.costs
    joules: dict[tuple[str, Phase], list[float]] = {}
    for report in arm.reports:
        if report.ticket not in costs:
            continue
        for record in report.phases:
            if record.phase not in WORK:
                continue
            energy = record.modelled if kind == "modelled" else _inside(record)
            if isinstance(energy, Missing):
                return None
            key = report.ticket.client_id, record.phase
            joules.setdefault(key, []).append(energy.energy_j)
    if not joules:
        return None
    n_rounds = {c: sum(ticket.client_id == c for ticket in costs) for c in clients}
    return {
        phase: np.array([sum(joules.get((c, phase), [])) / max(1, n_rounds[c]) for c in clients])
        for phase in WORK
    }


def _inside(record: PhaseRecord) -> MeasuredEnergy | Missing:
    return record.measured if isinstance(record.measured, Missing) else widest(record.measured)


def _finish_bars(axes: Axes, label: str) -> None:
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    axes.locator_params(axis="x", nbins=5)  # more would overlap: 0.0025 is a wide number
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, columnspacing=0.9)
