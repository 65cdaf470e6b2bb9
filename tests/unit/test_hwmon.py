"""Any hwmon chip: the best kind of value it has, and nothing that nobody can name."""

from pathlib import Path

import pytest

from benchmarks.joules.faked_boards import BOARDS, write_files
from fedcore.energy import Boundary
from hardware.meters.base import NoSensorError
from hardware.meters.hwmon import Hwmon

CHIP = "sys/class/hwmon/hwmon2"


def chip(root: Path, **files: object) -> str:
    write_files(root, {f"{CHIP}/{name}": str(text) for name, text in files.items()})
    return str(root)


def test_a_usb_tester_pairs_its_bus_voltage_with_its_only_current(tmp_path: Path) -> None:
    root = chip(
        tmp_path, name="powerz", in0_input=5060, in1_input=330, curr1_input=820, curr1_label="IBUS"
    )
    with Hwmon(root=root).open() as meter:
        (rail,) = meter.info.rails
        assert (rail.name, rail.boundary, rail.kind) == ("IBUS", Boundary.BOARD_DC_INPUT, "power")
        assert meter.read().values == pytest.approx((5.06 * 0.82,))


def test_energy_goes_before_average_before_instant(tmp_path: Path) -> None:
    root = chip(
        tmp_path,
        name="amdgpu",
        power1_input=50_000_000,
        power1_average=45_000_000,
        power1_average_interval=1000,
    )
    with Hwmon(root=root).open() as meter:
        (rail,) = meter.info.rails
        assert (rail.boundary, rail.update_s) == (Boundary.GPU_BOARD, 1.0)
        assert meter.read().values == (45.0,)
    chip(tmp_path, energy1_input=7_000_000)
    with Hwmon(root=root).open() as meter:
        assert meter.info.rails[0].kind == "counter"
        assert meter.read().values == (7.0,)


def test_cores_inside_a_socket_are_not_added(tmp_path: Path) -> None:
    root = chip(
        tmp_path,
        name="amd_energy",
        energy1_label="Ecore000",
        energy1_input=1_000_000,
        energy2_label="Esocket0",
        energy2_input=9_000_000,
    )
    with Hwmon(root=root).open() as meter:
        assert [rail.name for rail in meter.info.rails] == ["Esocket0"]


def test_an_unknown_chip_is_named_and_wants_its_boundary(tmp_path: Path) -> None:
    root = chip(tmp_path, name="nobody", power1_input=3_000_000)
    with pytest.raises(NoSensorError, match=r"that do: nobody\)"):
        Hwmon(root=root).open()
    with pytest.raises(NoSensorError, match="nobody knows what chip nobody measures"):
        Hwmon(root=root, chip="nobody").open()
    with Hwmon(root=root, chip="nobody", boundary=Boundary.WALL_AC).open() as meter:
        assert meter.info.rails[0].boundary is Boundary.WALL_AC
        assert meter.read().values == (3.0,)


def test_a_jetsons_chips_are_left_to_its_own_meter(tmp_path: Path) -> None:
    next(board for board in BOARDS if board.name == "Jetson Orin Nano").write(tmp_path)
    with pytest.raises(NoSensorError, match=r"that do: none\)"):
        Hwmon(root=str(tmp_path)).open()


def test_a_file_that_gives_no_number_is_no_sensor(tmp_path: Path) -> None:
    root = chip(tmp_path, name="amdgpu", power1_average="garbage")
    with pytest.raises(NoSensorError, match="power1_average: invalid literal"):
        Hwmon(root=root).open()


def test_a_total_and_its_parts_are_never_added(tmp_path: Path) -> None:
    root = chip(
        tmp_path,
        name="nobody",
        power1_label="total",
        power1_input=9_000_000,
        power2_label="disk",
        power2_input=2_000_000,
    )
    known = {"root": root, "chip": "nobody", "boundary": Boundary.BOARD_DC_INPUT}
    with pytest.raises(NoSensorError, match="total, disk, and one may hold the others") as caught:
        Hwmon(**known).open()
    assert 'labels=["total"]' in caught.value.fix
    with Hwmon(**known, labels=("total",)).open() as meter:
        assert meter.read().values == (9.0,)
    with pytest.raises(NoSensorError, match="has no fan; it has total, disk"):
        Hwmon(**known, labels=("fan",)).open()


def test_of_two_equal_chips_one_is_named_as_doctor_prints_it(tmp_path: Path) -> None:
    for number, place, watt in ((2, "0000:03:00.0", 40), (3, "0000:0b:00.0", 70)):
        folder = tmp_path / f"sys/class/hwmon/hwmon{number}"
        write_files(folder, {"name": "amdgpu", "power1_average": str(watt * 1_000_000)})
        device = tmp_path / "sys/bus/pci/devices" / place
        device.mkdir(parents=True)
        (folder / "device").symlink_to(device)
    with pytest.raises(NoSensorError, match="several chips fit") as caught:
        Hwmon(root=str(tmp_path)).open()
    assert "'chip=amdgpu at 0000:03:00.0'" in caught.value.fix
    with Hwmon(root=str(tmp_path), chip="amdgpu at 0000:0b:00.0").open() as meter:
        assert meter.read().values == (70.0,)
        assert meter.info.notes == ("chip amdgpu at 0000:0b:00.0",)


def test_the_fix_of_a_file_for_root_alone_names_all_that_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = chip(tmp_path, name="powerz", in0_input=5060, curr1_input=820)

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("hardware.meters.hwmon.HeldFile", refused)
    with pytest.raises(NoSensorError, match="in0_input: only root") as caught:
        Hwmon(root=root).open()
    assert f"{tmp_path / CHIP}/in0_input {tmp_path / CHIP}/curr1_input`" in caught.value.fix
