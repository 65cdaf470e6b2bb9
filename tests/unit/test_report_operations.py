"""Counted operations on the page: means over clients, priced by every table, gaps as gaps."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from fedcore.operations import LayerCount
from fedcore.types import Missing

pytest.importorskip("scipy")

from testbed.report.operations import counted, operations_table
from testbed.report.words import DASH


@dataclass(frozen=True)
class Arm:
    """As much of `ArmResults` as is looked at."""

    arm: SimpleNamespace
    reports: tuple[SimpleNamespace, ...]


def arm(name: str, *operations: object) -> Arm:
    reports = tuple(
        SimpleNamespace(surroundings=SimpleNamespace(operations=found)) for found in operations
    )
    return Arm(SimpleNamespace(name=name), reports)


def layers(acs: float, *, macs: float = 0.0) -> tuple[LayerCount, ...]:
    hidden = LayerCount(
        name="hidden", neurons=4, steps=2, spikes=3.0, acs=acs, macs=macs, dense=200.0
    )
    readout = LayerCount(name="readout", neurons=2, steps=2, acs=10.0, dense=20.0)
    return hidden, readout


def test_clients_are_averaged_layer_by_layer() -> None:
    found = counted(arm("snn", None, layers(100.0), layers(300.0)))
    assert [layer.acs for layer in found] == [200.0, 10.0]


def test_every_table_prices_forward_and_training() -> None:
    table = operations_table({"snn": layers(1000.0), "ann": layers(0.0, macs=1000.0)})
    assert table.counts[0] == ("accumulations", ("1,010", "10"))
    assert table.counts[3] == ("neuron updates", ("12", "12"))
    assert table.priced == ("snn, forward", "ann, forward", "snn, training", "ann, training")
    prices = {title: (cells[:2], cells[2:]) for title, cells in table.prices}
    assert len(prices) >= 3
    assert prices["45 nm, float32 arithmetic"][0] == ("0.909 nJ", "4.61 nJ")
    loihi, training = prices["Loihi (Davies 2018)"]
    assert loihi[1] == DASH  # no figure for the multiplications of the analog arm
    assert training == (DASH, DASH)  # nor for those of a gradient
    assert all(table.remarks[title] for title in prices)


def test_nothing_counted_is_no_table() -> None:
    assert isinstance(counted(arm("ann", None)), Missing)
    why = Missing(why="layer 'odd' is not understood")
    assert counted(arm("ann", why)) == why
    assert operations_table({"ann": why}) is None


def test_what_is_not_trained_has_no_price_of_training() -> None:
    table = operations_table({"int8": layers(1000.0)}, trains=False)
    assert table.priced == ("int8, forward",)
    assert all(len(cells) == 1 for _, cells in table.prices)


def test_clients_that_counted_different_layers_have_no_mean() -> None:
    found = counted(arm("snn", layers(100.0), layers(300.0)[:1]))
    assert isinstance(found, Missing)
    assert "different layers" in found.why
