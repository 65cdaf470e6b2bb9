"""A reading that failed is no value and no silence: its rail's flag says that it was missed."""

from __future__ import annotations

import math

import pytest

from fedcore.energy import Boundary, EnergyReading
from fedcore.types import Missing
from hardware.meters.base import MeterInfo, Rail, Sample
from hardware.readings import read_window

INFO = MeterInfo(
    name="two",
    version="1",
    rails=tuple(
        Rail(
            name=name,
            boundary=Boundary.RAILS_SUM,
            kind="power",
            resolution=0.001,
            gain_error=0.01,
            max_power_w=20.0,
        )
        for name in ("a", "b")
    ),
    period_s=0.1,
)


def readings(*, failing: int) -> dict[str, EnergyReading]:
    """Of 1 s at 3 W and 5 W, sampled ten times a second from 1 s before; b fails once."""
    samples = [
        Sample((i - 10) * 100_000_000, (3.0, math.nan if i == failing else 5.0)) for i in range(21)
    ]
    found = read_window(INFO, samples, start_ns=0, end_ns=10**9, max_gap_s=0.3)
    assert not isinstance(found, Missing)
    return {reading.rail: reading for reading in found}


def test_a_failed_reading_is_flagged_on_its_rail_alone_and_costs_no_energy() -> None:
    found = readings(failing=15)
    assert found["b"].flags == ("read-failed",)
    assert found["a"].flags == ()
    assert found["b"].energy_j == pytest.approx(5.0)
    assert found["b"].coverage == 1
    assert found["b"].n_samples == found["a"].n_samples - 1


def test_what_failed_before_the_window_is_not_its_own() -> None:
    assert readings(failing=5)["b"].flags == ()
