"""Priced operations: by hand, and without the mistakes of published tables."""

from __future__ import annotations

import dataclasses

import pytest

from fedcore.energy import ModelledEnergy
from fedcore.errors import ConfigError
from fedcore.operations import LayerCount
from fedcore.types import Missing
from hardware.operations import OperationTable, operation_tables, price, price_lines

SPIKING = (
    LayerCount(name="hidden", neurons=10, steps=4, spikes=6, acs=300),
    LayerCount(name="readout", neurons=2, steps=4, acs=12),
)
GREY = (dataclasses.replace(SPIKING[0], acs=0, macs=800), SPIKING[1])


def table(title: str) -> OperationTable:
    (found,) = [one for one in operation_tables() if one.title == title]
    return found


def interval_pj(layers: tuple[LayerCount, ...], title: str) -> tuple[float, float]:
    energy = price(layers, table(title))
    assert isinstance(energy, ModelledEnergy)
    assert energy.energy_j == pytest.approx((energy.low_j + energy.high_j) / 2)
    return energy.low_j * 1e12, energy.high_j * 1e12


def test_energies_by_hand() -> None:
    assert interval_pj(SPIKING, "45 nm, float32 arithmetic") == pytest.approx([312 * 0.9] * 2)
    assert interval_pj(SPIKING, "Loihi (Davies 2018)") == pytest.approx(
        [312 * 23.6 + 48 * 52, 312 * 23.6 + 48 * 81]
    )
    assert interval_pj(SPIKING, "Loihi (SANA-FE)") == pytest.approx(
        [312 * 24 + 48 * 51.2 + 6 * 69.3, 312 * 35.5 + 48 * 72.8 + 6 * 69.3]
    )


def test_the_gap_between_tables_is_the_published_one() -> None:
    """3516 operations: 83.0 nJ at 23.6 pJ, 3.16 nJ at 0.9 pJ; neurons are priced on top."""
    layer = (LayerCount(name="hidden", neurons=0, steps=20, acs=3516),)
    assert interval_pj(layer, "Loihi (Davies 2018)")[0] == pytest.approx(83.0e3, rel=1e-3)
    assert interval_pj(layer, "45 nm, float32 arithmetic")[0] == pytest.approx(3.16e3, rel=2e-3)


def test_an_analog_first_layer_is_never_left_out() -> None:
    assert interval_pj(GREY, "45 nm, float32 arithmetic") == pytest.approx(
        [800 * 4.6 + 12 * 0.9] * 2
    )
    refused = price(GREY, table("Loihi (Davies 2018)"))
    assert isinstance(refused, Missing)
    assert "hidden" in refused.why


def test_spikes_do_not_scale_synapses_a_second_time() -> None:
    silent = tuple(dataclasses.replace(layer, spikes=0.0) for layer in SPIKING)
    title = "45 nm, float32 arithmetic"
    assert interval_pj(silent, title) == interval_pj(SPIKING, title)


def test_steps_are_paid_for_by_silent_neurons_too() -> None:
    idle = (LayerCount(name="hidden", neurons=10, steps=4),)
    twice = (dataclasses.replace(idle[0], steps=8),)
    low, high = interval_pj(idle, "Loihi (Davies 2018)")
    assert (low, high) == pytest.approx((40 * 52, 40 * 81))
    assert interval_pj(twice, "Loihi (Davies 2018)") == pytest.approx((2 * low, 2 * high))


def test_memory_is_priced_or_said_to_be_missing() -> None:
    plain, full = table("45 nm, float32 arithmetic"), "45 nm, float32 arithmetic and weight reads"
    assert "weight reads" in plain.unpriced
    assert "no memory" in plain.unpriced
    assert "weight reads" not in table(full).unpriced
    low, high = interval_pj(GREY, full)
    assert low - interval_pj(GREY, plain.title)[0] == pytest.approx(812 * 5)
    assert high - interval_pj(GREY, plain.title)[1] == pytest.approx(812 * 1300)


@pytest.mark.parametrize("one", operation_tables(), ids=lambda one: one.title)
def test_every_table_says_its_source_and_that_static_power_is_not_in_it(
    one: OperationTable,
) -> None:
    assert one.source
    assert "static power" in one.unpriced


@pytest.mark.parametrize("layers", [SPIKING, GREY])
def test_all_tables_are_shown_together_and_marked(layers: tuple[LayerCount, ...]) -> None:
    head, *rows, last = price_lines(layers)
    assert head.startswith("MODELLED")
    assert [row.split(":")[0] for row in rows] == [one.title for one in operation_tables()]
    assert sum("nJ [" in row for row in rows) >= 3
    assert not any(": 0 nJ" in row for row in rows)
    assert last == "Loihi 2: no official figure"


@pytest.mark.parametrize("interval", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_prices_that_cannot_be_are_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="accumulation_pj"):
        OperationTable(title="x", source="x", accumulation_pj=interval)
