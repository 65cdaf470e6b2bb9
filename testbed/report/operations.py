"""What networks did for one example, and what published tables make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedcore.operations import LayerCount, training_counts
from fedcore.types import Missing
from hardware.operations import OperationTable, operation_tables, price
from testbed.by_device import mean_counts
from testbed.report.words import DASH
from testbed.results import ArmResults

__all__ = ["OperationsTable", "counted", "operations_table"]

_Counts = tuple[LayerCount, ...] | Missing


@dataclass(frozen=True, kw_only=True)
class OperationsTable:
    """What the page shows.

    Attributes:
        columns: whose networks.
        counts: a label and one cell per column: of one forward run.
        priced: the columns of `prices`: forward runs, then training steps where networks train.
        prices: MODELLED energies by table.
        remarks: what each table's figures lack, by its title.
    """

    columns: tuple[str, ...]
    counts: tuple[tuple[str, tuple[str, ...]], ...]
    priced: tuple[str, ...]
    prices: tuple[tuple[str, tuple[str, ...]], ...]
    remarks: Mapping[str, str]


def counted(arm: ArmResults) -> _Counts:
    """Mean over the clients that counted in the arm's last round, layer by layer."""
    told = [report.surroundings.operations for report in arm.reports if report.surroundings]
    return mean_counts([operations for operations in told if operations is not None])


def operations_table(
    layers: Mapping[str, _Counts], *, trains: bool = True
) -> OperationsTable | None:
    """The table; None where nobody has counted anything.

    Args:
        layers: by column.
        trains: whether to price a training step, too.
    """
    if all(isinstance(found, Missing) for found in layers.values()):
        return None
    runs = {f"{name}, forward": found for name, found in layers.items()}
    if trains:
        runs |= {
            f"{name}, training": found if isinstance(found, Missing) else training_counts(found)
            for name, found in layers.items()
        }
    tables = operation_tables()
    return OperationsTable(
        columns=tuple(layers),
        counts=(
            ("accumulations", _cells(layers, "acs")),
            ("multiply-accumulations", _cells(layers, "macs")),
            ("products with silent inputs, too", _cells(layers, "dense")),
            ("neuron updates", _cells(layers, "updates")),
            ("spikes", _cells(layers, "spikes")),
        ),
        priced=tuple(runs),
        prices=tuple(
            (table.title, tuple(_priced(found, table) for found in runs.values()))
            for table in tables
        ),
        remarks={
            table.title: f"no figure for {table.unpriced}; {table.source}" for table in tables
        },
    )


def _cells(layers: Mapping[str, _Counts], name: str) -> tuple[str, ...]:
    return tuple(
        DASH if isinstance(found, Missing) else f"{sum(getattr(f, name) for f in found):,.0f}"
        for found in layers.values()
    )


def _priced(layers: _Counts, table: OperationTable) -> str:
    energy = layers if isinstance(layers, Missing) else price(layers, table)
    if isinstance(energy, Missing):
        return DASH
    low, high = energy.low_j * 1e9, energy.high_j * 1e9
    return f"{low:.3g} nJ" if low == high else f"{low:.3g} to {high:.3g} nJ"
