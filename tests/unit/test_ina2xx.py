"""INA219, INA226, INA260: signed power from the kernel's driver, and from the bus itself."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.joules.faked_boards import write_files
from fedcore.energy import Boundary
from fedcore.errors import ConfigError
from hardware.meters.base import NoSensorError
from hardware.meters.ina2xx import Ina2xx, Ina2xxI2c

CHIP = "sys/class/hwmon/hwmon1"


def chip(root: Path, **files: object) -> str:
    write_files(root, {f"{CHIP}/{name}": str(text) for name, text in files.items()})
    return str(root)


def test_a_chip_in_the_feed_is_the_boards_input(tmp_path: Path) -> None:
    root = chip(
        tmp_path,
        name="ina226",
        in0_input=16,
        in1_input=5016,
        curr1_input=820,
        power1_input=4113120,
        shunt_resistor=20000,
    )
    with Ina2xx(root=root).open() as meter:
        (rail,) = meter.info.rails
        assert rail.boundary is Boundary.BOARD_DC_INPUT
        assert rail.gain_error == pytest.approx(0.001 + 0.01)
        assert meter.read().values == pytest.approx((5.016 * 0.82,))
        assert meter.info.flags == ()


def test_power_that_flows_back_is_negative(tmp_path: Path) -> None:
    """The chip's own power, 176 mW here, has lost the sign."""
    root = chip(
        tmp_path,
        name="ina219",
        in0_input=-4,
        in1_input=4228,
        curr1_input=-40,
        power1_input=176000,
        shunt_resistor=100000,
    )
    with Ina2xx(root=root).open() as meter:
        assert meter.read().values == pytest.approx((-4.228 * 0.04,))


def test_the_drivers_guess_of_the_shunt_is_flagged_with_the_fix(tmp_path: Path) -> None:
    root = chip(tmp_path, name="ina219", in1_input=5000, curr1_input=1000, shunt_resistor=10000)
    with Ina2xx(root=root).open() as meter:
        assert meter.info.flags == ("shunt-suspect",)
        assert "echo 100000 | sudo tee" in meter.info.notes[-1]


def test_of_several_chips_one_is_named_by_its_place_on_the_bus(tmp_path: Path) -> None:
    """A feed and what hangs behind it would be counted twice."""
    for number, place, milliampere in ((1, "1-0040", 900), (2, "1-0041", 400)):
        folder = tmp_path / f"sys/class/hwmon/hwmon{number}"
        write_files(
            folder,
            {
                "name": "ina226",
                "in1_input": "5000",
                "curr1_input": str(milliampere),
                "shunt_resistor": "20000",
            },
        )
        bus = tmp_path / "sys/bus/i2c/devices" / place
        bus.mkdir(parents=True)
        (folder / "device").symlink_to(bus)
    with pytest.raises(NoSensorError, match="ina226 at 1-0040, ina226 at 1-0041") as caught:
        Ina2xx(root=str(tmp_path)).open()
    assert "--option device=1-0040" in caught.value.fix
    with Ina2xx(root=str(tmp_path), device="1-0041").open() as meter:
        assert meter.info.rails[0].name == "ina226-1-0041"
        assert meter.read().values == pytest.approx((2.0,))
    with pytest.raises(NoSensorError, match="1-0042 in"):
        Ina2xx(root=str(tmp_path), device="1-0042").open()


def test_a_shunt_that_is_too_large_says_where_it_ends(tmp_path: Path) -> None:
    """320 mV across 100 mOhm: a Raspberry Pi 4 at 3 A and its USB devices reach it."""
    root = chip(tmp_path, name="ina219", in1_input=5000, curr1_input=1000, shunt_resistor=100000)
    with Ina2xx(root=root).open() as meter:
        assert "up to 3.2 A" in meter.info.notes[1]
        assert meter.info.rails[0].offset_error_w == pytest.approx(5.0 * 200e-6 / 0.1)
        chip(tmp_path, curr1_input=3200)
        sample = meter.read()
        assert sample.values[0] != sample.values[0]
        assert "full scale" in sample.fault


def test_without_a_chip_the_wiring_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSensorError) as caught:
        Ina2xx(root=str(tmp_path)).open()
    assert "dtoverlay=i2c-sensor,ina226" in caught.value.fix


Registers = dict[int, int]


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Callable[[Registers], list[Registers]]:
    """A bus with one chip at 0x40; the list holds its registers and can lose them."""

    def wire(registers: Registers) -> list[Registers]:
        present = [registers]

        class SMBus:
            def __init__(self, number: int) -> None:
                if number != 1:
                    raise FileNotFoundError(2, "No such file or directory")

            def __enter__(self) -> "SMBus":
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def read_i2c_block_data(self, address: int, register: int, length: int) -> list[int]:
                if address != 0x40 or not present:
                    raise OSError(121, "Remote I/O error")
                return list(present[0][register].to_bytes(length, "big"))

        module = types.ModuleType("smbus2")
        module.SMBus = SMBus  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "smbus2", module)
        return present

    return wire


INA226 = {0x01: 8000, 0x02: 4012, 0xFF: 0x2260}  # 20 mV across the shunt, 5.015 V


def test_the_product_is_formed_here(bus: Callable) -> None:
    bus(INA226)
    with Ina2xxI2c(bus=1, shunt_ohm=0.02).open() as meter:
        assert meter.read().values == pytest.approx((4012 * 1.25e-3 * 8000 * 2.5e-6 / 0.02,))
        (rail,) = meter.info.rails
        assert rail.resolution == pytest.approx(4012 * 1.25e-3 * 2.5e-6 / 0.02)
        assert rail.offset_error_w == pytest.approx(4012 * 1.25e-3 * 10e-6 / 0.02)


def test_an_ina219_keeps_its_flags_below_the_voltage_and_its_sign(bus: Callable) -> None:
    bus({0x01: 0x10000 - 400, 0x02: 1250 << 3 | 0b10})
    with Ina2xxI2c(bus=1, chip="ina219", shunt_ohm=0.1).open() as meter:
        assert meter.read().values == pytest.approx((-5.0 * 400 * 10e-6 / 0.1,))


def test_an_ina260_has_its_own_shunt(bus: Callable) -> None:
    bus({0x01: 800, 0x02: 4000, 0xFF: 0x2270})
    with Ina2xxI2c(bus=1, chip="ina260").open() as meter:
        assert meter.read().values == pytest.approx((5.0 * 1.0,))
        assert meter.info.rails[0].gain_error == 0.0015


@pytest.mark.parametrize(
    ("name", "word"), [("ina226", 0x7FFF), ("ina226", 0x8000), ("ina219", 32000)]
)
def test_a_shunt_at_its_full_scale_is_no_value(bus: Callable, name: Any, word: int) -> None:
    """The INA219 ends at 320 mV, before its register does."""
    bus({**INA226, 0x01: word})
    with Ina2xxI2c(bus=1, chip=name).open() as meter:
        sample = meter.read()
        assert sample.values[0] != sample.values[0]
        assert "at its full scale" in sample.fault


def test_another_chip_is_refused_by_its_number(bus: Callable) -> None:
    bus({**INA226, 0xFF: 0x2270})
    with pytest.raises(NoSensorError, match="answers 0x2270, expected 0x2260 of an ina226"):
        Ina2xxI2c(bus=1).open()


def test_a_chip_that_goes_leaves_no_value(bus: Callable) -> None:
    present = bus(INA226)
    with Ina2xxI2c(bus=1).open() as meter:
        present.clear()
        sample = meter.read()
        assert sample.values[0] != sample.values[0]
        assert "Remote I/O error" in sample.fault


def test_a_chip_that_the_kernel_holds_is_read_through_it(
    bus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus(INA226)

    def busy(*_: object) -> list[int]:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(sys.modules["smbus2"].SMBus, "read_i2c_block_data", busy)
    with pytest.raises(NoSensorError, match="driver holds") as caught:
        Ina2xxI2c(bus=1).open()
    assert "--meter ina2xx --option device=1-0040" in caught.value.fix


def test_no_bus_and_no_answer_name_the_fix(bus: Callable) -> None:
    bus(INA226)
    absent = {"bus": 1, "address": 0x41}
    for options in ({"bus": 7}, absent, {**absent, "chip": "ina219"}):
        with pytest.raises(NoSensorError) as caught:
            Ina2xxI2c(**options).open()
        assert "usermod -aG i2c" in caught.value.fix


@pytest.mark.parametrize("options", [{"address": 0x20}, {"shunt_ohm": 0}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Ina2xxI2c(bus=1, **options)
