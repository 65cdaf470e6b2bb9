"""Modelled energy: tables parse, the interval holds its centre, the label says whose watts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import ConfigError
from hardware.modelled import CpuModel, energy_models, load_energy_model

names = st.sampled_from(energy_models())
seconds = st.floats(0, 1e6)


@pytest.mark.parametrize("name", energy_models())
def test_every_table_parses_and_tells_its_source(name: str) -> None:
    model = load_energy_model(name)
    assert model.name == name
    assert model.title
    assert model.source
    assert name in model.label
    assert "this host" in model.label


@given(name=names, cpu_s=seconds, duration_s=seconds, share=st.floats(0, 1))
def test_the_interval_holds_its_centre(
    name: str, cpu_s: float, duration_s: float, share: float
) -> None:
    has_idle = load_energy_model(name).idle_w is not None
    model = load_energy_model(name, idle_share=share if has_idle else 0.0)
    energy = model.estimate(cpu_s=cpu_s, duration_s=duration_s)
    assert 0 <= energy.low_j <= energy.energy_j <= energy.high_j
    assert energy.model == model.label


@given(name=names, one_s=seconds, other_s=seconds)
def test_two_windows_cost_what_one_of_both_costs(name: str, one_s: float, other_s: float) -> None:
    model = load_energy_model(name)
    parts = model.estimate(cpu_s=one_s, duration_s=1).plus(
        model.estimate(cpu_s=other_s, duration_s=2)
    )
    whole = model.estimate(cpu_s=one_s + other_s, duration_s=3)
    assert parts.energy_j == pytest.approx(whole.energy_j)
    assert (parts.low_j, parts.high_j) == pytest.approx((whole.low_j, whole.high_j))


def test_four_busy_cores_and_the_idle_board_are_the_published_line() -> None:
    """PowerJoular's fit for the Raspberry Pi 4B rev 1.2 at full load: 2.286 + 4.534 W."""
    model = load_energy_model("raspberry-pi-4b", idle_share=1.0)
    energy = model.estimate(cpu_s=4 * 60.0, duration_s=60.0)
    assert energy.energy_j == pytest.approx((2.286 + 4.534) * 60)
    assert "240 CPU-s x 1.133 W + 1 x 2.286 W x 60 s" in energy.inputs


def test_an_unknown_table_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'raspberry-pi-5'"):
        load_energy_model("raspberry-pi5")


def test_idle_power_that_nobody_knows_is_not_charged() -> None:
    with pytest.raises(ConfigError, match="idle_w"):
        load_energy_model("generic-x86-thread", idle_share=0.5)


@pytest.mark.parametrize("watts", [(0.0, 1.0, 2.0), (2.0, 1.0, 3.0), (1.0, 2.0, 1.5)])
def test_an_interval_without_its_centre_is_refused(watts: tuple[float, float, float]) -> None:
    low_w, busy_core_w, high_w = watts
    with pytest.raises(ConfigError, match="low_w <= busy_core_w <= high_w"):
        CpuModel(
            name="x", title="x", source="x", low_w=low_w, busy_core_w=busy_core_w, high_w=high_w
        )
