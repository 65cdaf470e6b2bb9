"""Counted operations priced with published tables of picojoules; a model, never a measurement.

Counts are totals over the steps of time, so that neither the number of steps nor the rate of
spikes enters a second time. A table that has no price for a synaptic operation that occurred gives
no energy at all: an analog first layer cannot be left out. Other terms that a table lacks, memory
and static power among them, are named beside its energy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedcore.energy import ModelledEnergy
from fedcore.errors import ConfigError
from fedcore.operations import LayerCount
from fedcore.strict import parse
from fedcore.toml import read_toml
from fedcore.types import Missing

__all__ = ["OperationTable", "operation_tables", "price", "price_lines"]

_TABLES = Path(__file__).parent / "energy_models" / "operations"


@dataclass(frozen=True, kw_only=True)
class OperationTable:
    """Energy per operation in pJ, each as (low, high); None where the source has no figure.

    Attributes:
        title: the hardware whose energies these are.
        source: where the numbers come from.
        accumulation_pj: a weight added because a spike arrived.
        multiply_accumulation_pj: a weight times a graded input, added.
        weight_read_pj: fetching the weight of either.
        neuron_update_pj: one neuron, one step.
        spike_pj: sending one spike.
        remark: what its energies hold or lack beyond that, for people.
    """

    title: str
    source: str
    accumulation_pj: tuple[float, float]
    multiply_accumulation_pj: tuple[float, float] | None = None
    weight_read_pj: tuple[float, float] | None = None
    neuron_update_pj: tuple[float, float] | None = None
    spike_pj: tuple[float, float] | None = None
    remark: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_pj") and value is not None and not 0 < value[0] <= value[1]:
                raise ConfigError(f"need 0 < low <= high; got {name} = {list(value)}")

    @property
    def unpriced(self) -> str:
        """What its source has no figure of its own for, for people."""
        terms = {
            "weight reads": self.weight_read_pj,
            "neuron updates": self.neuron_update_pj,
            "sent spikes": self.spike_pj,
        }
        unknown = [name for name, value in terms.items() if value is None]
        return "; ".join(filter(None, [", ".join([*unknown, "static power"]), self.remark]))


def operation_tables() -> tuple[OperationTable, ...]:
    """All tables, in the order of their files' names.

    Raises:
        ConfigError: a table is wrong.
    """
    return tuple(
        parse(
            OperationTable,
            read_toml(path, where=f"operation table {path.stem}"),
            where=f"operation table {path.stem}",
        )
        for path in sorted(_TABLES.glob("*.toml"))
    )


def price(layers: Sequence[LayerCount], table: OperationTable) -> ModelledEnergy | Missing:
    """What the counted operations cost under a table; the centre is the middle of the interval.

    Returns:
        The energy of one example, or why there is none.
    """
    multiplying = [layer.name for layer in layers if layer.macs]
    if multiplying and table.multiply_accumulation_pj is None:
        return Missing(
            why=f"no figure for multiply-accumulations; needed by {', '.join(multiplying)}"
        )
    acs, macs = sum(layer.acs for layer in layers), sum(layer.macs for layer in layers)
    updates, spikes = sum(layer.updates for layer in layers), sum(layer.spikes for layer in layers)
    terms = [
        (acs, table.accumulation_pj),
        (macs, table.multiply_accumulation_pj),
        (acs + macs, table.weight_read_pj),
        (updates, table.neuron_update_pj),
        (spikes, table.spike_pj),
    ]
    low_pj, high_pj = (
        sum(count * pj[end] for count, pj in terms if pj is not None) for end in (0, 1)
    )
    return ModelledEnergy(
        energy_j=(low_pj + high_pj) / 2 * 1e-12,
        low_j=low_pj * 1e-12,
        high_j=high_pj * 1e-12,
        model=table.title,
        inputs=f"{acs:.6g} AC + {macs:.6g} MAC + {updates} updates + {spikes:.6g} spikes",
    )


def price_lines(layers: Sequence[LayerCount]) -> Iterator[str]:
    """The energies of one example under all tables, for a terminal or a report."""
    yield "MODELLED from counted operations, one example; nothing here was measured"
    for table in operation_tables():
        energy = price(layers, table)
        if isinstance(energy, Missing):
            yield f"{table.title}: missing, {energy.why}"
        else:
            yield (
                f"{table.title}: {energy.energy_j * 1e9:.4g} nJ "
                f"[{energy.low_j * 1e9:.4g}, {energy.high_j * 1e9:.4g}]; "
                f"no figure of their own for {table.unpriced}"
            )
    yield "Loihi 2: no official figure"
