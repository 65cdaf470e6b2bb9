"""Every registered meter keeps the contract: it opens, reads one value per rail, and closes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.joules.faked_boards import BOARDS
from fedcore.energy import Boundary
from fedcore.plan import Choice
from fedcore.strict import build, canonical_json, parse
from hardware.meters.base import MeterInfo, NoSensorError, OpenMeter
from hardware.meters.rpi5 import RAILS
from hardware.registry import METERS, sensors


def _powercap(folder: Path) -> dict[str, Any]:
    zone = folder / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (
        ("name", "package-0"),
        ("energy_uj", "52649883221"),
        ("max_energy_range_uj", "262143328850"),
    ):
        (zone / name).write_text(f"{text}\n")
    return {"root": str(folder)}


def _software_events(folder: Path) -> dict[str, Any]:
    """A power PMU whose energy is the kernel's CPU clock, so that real events are counted."""
    pmu = folder / "sys/bus/event_source/devices/power"
    (pmu / "events").mkdir(parents=True)
    for name, text in (
        ("type", "1"),
        ("cpumask", "0"),
        ("events/energy-pkg", "event=0x00"),
        ("events/energy-pkg.scale", "1e-9"),
        ("events/energy-pkg.unit", "Joules"),
    ):
        (pmu / name).write_text(f"{text}\n")
    return {"root": str(folder)}


def _trace(folder: Path) -> dict[str, Any]:
    (folder / "trace.csv").write_text("t_s,a,b\n0,1,2\n1000,3,4\n")
    return {"path": str(folder / "trace.csv")}


def _battery(folder: Path) -> dict[str, Any]:
    supply = folder / "sys/class/power_supply/BAT0"
    supply.mkdir(parents=True)
    for name, text in (("type", "Battery"), ("status", "Discharging"), ("power_now", "8421000")):
        (supply / name).write_text(f"{text}\n")
    return {"root": str(folder)}


def _pmic(folder: Path) -> dict[str, Any]:
    (folder / "proc/device-tree").mkdir(parents=True)
    (folder / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.1\0")
    lines = [f"{rail}_A current(0)=0.25A\n{rail}_V volt(1)=1.5V" for rail in RAILS]
    program = folder / "usr/bin/vcgencmd"
    program.parent.mkdir(parents=True)
    program.write_text("\n".join(["#!/bin/sh", "cat <<END", *lines, "END", ""]))
    program.chmod(0o755)
    return {"root": str(folder)}


def _powerz(folder: Path) -> dict[str, Any]:
    chip = folder / "sys/class/hwmon/hwmon3"
    chip.mkdir(parents=True)
    for name, text in (
        ("name", "powerz"),
        ("in0_input", "5060"),
        ("in1_input", "330"),  # a line that tells what the cable can do, not of the power
        ("curr1_input", "820"),
        ("curr1_label", "IBUS"),
    ):
        (chip / name).write_text(f"{text}\n")
    return {"root": str(folder)}


def _ina226(folder: Path) -> dict[str, Any]:
    chip = folder / "sys/class/hwmon/hwmon1"
    chip.mkdir(parents=True)
    for name, text in (
        ("name", "ina226"),
        ("in1_input", "5016"),
        ("curr1_input", "820"),
        ("shunt_resistor", "20000"),
    ):
        (chip / name).write_text(f"{text}\n")
    return {"root": str(folder)}


def _jetson(folder: Path) -> dict[str, Any]:
    next(board for board in BOARDS if board.meter == "jetson").write(folder)
    return {"root": str(folder)}


SETTINGS = {
    "auto": _powercap,
    "battery": _battery,
    "combined": lambda folder: {
        "meters": [
            {"name": "rapl", "options": _powercap(folder)},
            {"name": "csv-replay", "options": _trace(folder)},
        ]
    },
    "csv-replay": _trace,
    "hwmon": _powerz,
    "ina2xx": _ina226,
    "ina2xx-i2c": lambda _: {"bus": 99},
    "jetson": _jetson,
    "null": lambda _: {},
    "nvml": lambda _: {},  # a real card or none
    "perf": _software_events,
    "rapl": _powercap,
    "rpi5": _pmic,
    "smart-plug": lambda _: {"host": "localhost:1"},  # no plug; its own test has one
    "usb-meter": lambda folder: {"port": str(folder / "none")},  # nor a meter there
}


@pytest.fixture(params=METERS.names())
def meter(request: pytest.FixtureRequest, tmp_path: Path) -> OpenMeter:
    choice = Choice(name=request.param, options=SETTINGS[request.param](tmp_path))
    try:
        return build(METERS, choice).open()
    except NoSensorError as error:
        pytest.skip(f"{request.param}: {error.what}")


def test_info_says_what_is_measured_and_travels_as_json(meter: OpenMeter) -> None:
    info = meter.info
    meter.close()
    assert parse(MeterInfo, json.loads(canonical_json(info)), where="info") == info
    assert info.name in METERS.names()
    assert info.version
    names = [rail.name for rail in info.rails]
    assert len(set(names)) == len(names)
    assert bool(names) != bool(info.absent)
    for rail in info.rails:
        assert isinstance(rail.boundary, Boundary)
        for number in (rail.resolution, rail.update_s, rail.gain_error, rail.offset_error_w):
            assert number >= 0
        assert rail.max_power_w > 0
    assert info.period_s >= 0


def test_a_sample_is_one_value_per_rail_at_its_time(meter: OpenMeter) -> None:
    with meter:
        samples = []
        for _ in range(3):
            before_ns = time.monotonic_ns()
            sample = meter.read()
            assert before_ns <= sample.mono_ns <= time.monotonic_ns()
            assert len(sample.values) == len(meter.info.rails)
            assert all(math.isfinite(value) and value >= 0 for value in sample.values)
            assert sample.fault == ""
            samples.append(sample)
        for rail, *values in zip(meter.info.rails, *(s.values for s in samples), strict=True):
            if rail.kind == "counter":
                assert values == sorted(values)


def test_closing_twice_is_closing_once(meter: OpenMeter) -> None:
    meter.close()
    meter.close()


def test_every_sensor_can_be_looked_for_elsewhere(tmp_path: Path) -> None:
    """In an empty file system none is found, and each says why and what to do."""
    for name in sensors():
        with pytest.raises(NoSensorError) as caught:
            build(METERS, Choice(name=name, options={"root": str(tmp_path)})).open()
        assert caught.value.what
        assert caught.value.fix


def test_auto_takes_what_reads_and_else_tells_every_reason(tmp_path: Path) -> None:
    nothing = build(METERS, Choice(name="auto", options={"root": str(tmp_path)})).open()
    assert nothing.info.name == "null"
    for name in sensors():
        assert f"{name}: " in nothing.info.absent
    found = build(METERS, Choice(name="auto", options=_powercap(tmp_path))).open()
    assert found.info.name == "rapl"
    found.close()


THIRD_PARTY = """
from dataclasses import dataclass
from hardware.meters.base import MeterInfo, OpenRails, Rail, Sensor
from fedcore.energy import Boundary
import contextlib

@dataclass(frozen=True, kw_only=True)
class Plug(Sensor):
    def open(self, *, now_ns):
        rail = Rail(
            name="plug", boundary=Boundary.WALL_AC, kind="power", resolution=0.1,
            gain_error=0.02, max_power_w=3000.0, update_s=1.0,
        )
        info = MeterInfo(name="plug", version="1", rails=(rail,), period_s=1.0)
        return OpenRails(info, [lambda: VALUE], opened=contextlib.ExitStack(), now_ns=now_ns)
"""


@pytest.fixture
def with_plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], OpenMeter]:
    """Register a stranger's sensor, and let "auto" look at an otherwise empty machine."""

    def make(value: str) -> OpenMeter:
        module = f"plug_of_{tmp_path.name}"  # a name of its own: modules stay loaded
        (tmp_path / f"{module}.py").write_text(f"import math\nVALUE = {value}\n{THIRD_PARTY}")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(METERS, "_where", {**METERS._where, "plug": f"{module}:Plug"})
        choice = Choice(name="auto", options={"root": str(tmp_path / "empty")})
        return build(METERS, choice).open()

    return make


def test_auto_finds_a_strangers_sensor(with_plug: Callable[[str], OpenMeter]) -> None:
    with with_plug("7.5") as meter:
        assert meter.info.name == "plug"
        assert meter.read().values == (7.5,)


def test_auto_passes_over_a_sensor_that_opens_and_reads_nothing(
    with_plug: Callable[[str], OpenMeter],
) -> None:
    assert with_plug("math.nan").info.name == "null"


def test_auto_tells_that_a_strangers_package_is_missing(
    with_plug: Callable[[str], OpenMeter],
) -> None:
    meter = with_plug("__import__('not_installed_at_all')")
    assert "plug: meter 'plug' needs the package 'not_installed_at_all'" in meter.info.absent
