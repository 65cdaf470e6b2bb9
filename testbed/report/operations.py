"""What the arms' networks did for one example, and what published tables make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fedcore.operations import LayerCount, training_counts
from fedcore.types import Missing
from hardware.operations import OperationTable, operation_tables, price
from testbed.report.words import DASH
from testbed.results import ArmResults

__all__ = ["OperationsTable", "counted", "operations_table"]

_NOT_COUNTED = Missing(why="no client has counted its operations yet")


@dataclass(frozen=True, kw_only=True)
class OperationsTable:
    """What the page shows.

    Attributes:
        arms: the columns.
        counts: a label and one cell per arm: of one forward run.
        prices: MODELLED energies of one forward run and of one training step, by table.
        remarks: what each table's figures lack, by its title.
    """

    arms: tuple[str, ...]
    counts: tuple[tuple[str, tuple[str, ...]], ...]
    prices: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    remarks: Mapping[str, str]


def counted(arm: ArmResults) -> tuple[LayerCount, ...] | Missing:
    """Mean over the clients that counted in the arm's last round, layer by layer."""
    found, why = [], _NOT_COUNTED
    for report in arm.reports:
        operations = report.surroundings.operations if report.surroundings else None
        if isinstance(operations, Missing):
            why = operations
        elif operations:
            found.append(operations)
    return tuple(_mean(layers) for layers in zip(*found, strict=True)) if found else why


def operations_table(arms: Sequence[ArmResults]) -> OperationsTable | None:
    """The table; None where no arm has counted anything."""
    layers = {arm.arm.name: counted(arm) for arm in arms}
    if all(isinstance(found, Missing) for found in layers.values()):
        return None
    tables = operation_tables()
    return OperationsTable(
        arms=tuple(layers),
        counts=(
            ("accumulations", _cells(layers, "acs")),
            ("multiply-accumulations", _cells(layers, "macs")),
            ("products with silent inputs, too", _cells(layers, "dense")),
            ("neuron updates", _cells(layers, "updates")),
            ("spikes", _cells(layers, "spikes")),
        ),
        prices=tuple(
            (
                table.title,
                tuple(_priced(found, table) for found in layers.values()),
                tuple(
                    _priced(found if isinstance(found, Missing) else training_counts(found), table)
                    for found in layers.values()
                ),
            )
            for table in tables
        ),
        remarks={
            table.title: f"no figure for {table.unpriced}; {table.source}" for table in tables
        },
    )


def _mean(layers: Sequence[LayerCount]) -> LayerCount:
    return replace(
        layers[0],
        spikes=fmean(layer.spikes for layer in layers),
        acs=fmean(layer.acs for layer in layers),
        macs=fmean(layer.macs for layer in layers),
        dense=fmean(layer.dense for layer in layers),
    )


def _cells(layers: Mapping[str, tuple[LayerCount, ...] | Missing], name: str) -> tuple[str, ...]:
    return tuple(
        DASH if isinstance(found, Missing) else f"{sum(getattr(f, name) for f in found):,.0f}"
        for found in layers.values()
    )


def _priced(layers: tuple[LayerCount, ...] | Missing, table: OperationTable) -> str:
    energy = layers if isinstance(layers, Missing) else price(layers, table)
    if isinstance(energy, Missing):
        return DASH
    low, high = energy.low_j * 1e9, energy.high_j * 1e9
    return f"{low:.3g} nJ" if low == high else f"{low:.3g} to {high:.3g} nJ"
