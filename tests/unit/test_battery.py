"""Batteries on a made-up power_supply tree: signs, mains, several, and what is none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hardware.meters.base import NoSensorError, Sample
from hardware.meters.battery import Battery


def supply(root: Path, name: str, kind: str = "Battery", **files: object) -> Path:
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True)
    for file, value in {"type": kind, **files}.items():
        (folder / file).write_text(f"{value}\n")
    return folder


def read(root: Path) -> Sample:
    with Battery(root=str(root)).open() as meter:
        assert meter.info.rails[0].boundary.value == "board-dc-input"
        return meter.read()


@pytest.mark.parametrize("sign", [1, -1])
def test_power_is_that_of_its_file_or_else_current_times_voltage(tmp_path: Path, sign: int) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    supply(one, "BAT0", status="Discharging", power_now=sign * 8_421_000, current_now=1)
    supply(two, "BAT1", status="Discharging", current_now=sign * 700_000, voltage_now=11_300_000)
    assert read(one).values == pytest.approx((8.421,))
    assert read(two).values == pytest.approx((7.91,))


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_on_mains_nothing_is_measured(tmp_path: Path, status: str) -> None:
    battery = supply(tmp_path, "BAT0", status="Discharging", power_now=5_000_000)
    with Battery(root=str(tmp_path)).open() as meter:
        (battery / "status").write_text(f"{status}\n")
        sample = meter.read()
        assert math.isnan(sample.values[0])
        assert f"on mains (BAT0 {status})" in sample.fault
        (battery / "status").write_text("Discharging\n")
        assert meter.read().values == pytest.approx((5.0,))


def test_of_two_batteries_one_may_rest_but_not_be_charged(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", status="Discharging", power_now=5_000_000)
    other = supply(tmp_path, "BAT1", status="Not charging", power_now=0)
    assert read(tmp_path).values == pytest.approx((5.0,))
    (other / "status").write_text("Discharging\n")
    (other / "power_now").write_text("2500000\n")
    assert read(tmp_path).values == pytest.approx((7.5,))
    (other / "status").write_text("Charging\n")
    assert math.isnan(read(tmp_path).values[0])


def test_nought_while_discharging_is_ignorance_and_a_battery_that_goes_is_missing(
    tmp_path: Path,
) -> None:
    battery = supply(tmp_path, "BAT0", status="Discharging", power_now=0)
    sample = read(tmp_path)
    assert math.isnan(sample.values[0])
    assert "shows 0 W" in sample.fault
    with Battery(root=str(tmp_path)).open() as meter:
        (battery / "status").unlink()
        assert math.isnan(meter.read().values[0])


def test_usb_sources_and_a_mouse_are_no_battery_of_the_machine(tmp_path: Path) -> None:
    limits = {"current_now": 3_000_000, "voltage_now": 5_000_000}
    supply(tmp_path, "ucsi-source-psy-USBC000:001", "USB", **limits)
    supply(tmp_path, "AC", "Mains", online=1)
    supply(tmp_path, "hid-mouse", status="Discharging", scope="Device", power_now=1)
    with pytest.raises(NoSensorError, match="no battery"):
        read(tmp_path)


def test_a_battery_that_tells_no_power_is_refused(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", status="Discharging", capacity=80)
    with pytest.raises(NoSensorError, match="BAT0 tells neither"):
        read(tmp_path)
