"""Jetson boards: the right total from the right rails, under both kernels."""

from pathlib import Path

import pytest

from benchmarks.joules.faked_boards import BOARDS, FakedBoard, write_files
from fedcore.energy import Boundary
from fedcore.errors import ConfigError
from fedcore.plan import Choice
from fedcore.strict import build
from hardware.calibration import Calibration, save_calibration
from hardware.meters.base import NoSensorError, OpenMeter
from hardware.meters.jetson import Jetson, boards
from hardware.registry import METERS

BY_NAME = {board.name: board for board in BOARDS}
ORIN_NANO = BY_NAME["Jetson Orin Nano"]
AGX_ORIN = BY_NAME["Jetson AGX Orin"]
CHIP = "sys/class/hwmon/hwmon1"


def opened(board: FakedBoard, root: Path, **options: object) -> OpenMeter:
    board.write(root)
    return build(METERS, Choice(name=board.meter, options={"root": str(root), **options})).open()


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_board_has_its_total(board: FakedBoard, tmp_path: Path) -> None:
    with opened(board, tmp_path) as meter:
        assert sum(meter.read().values) == pytest.approx(board.total_w, abs=0.0006)
        assert {rail.boundary.value for rail in meter.info.rails} == {board.boundary}
        assert meter.info.flags == ()
        auto = build(METERS, Choice(name="auto", options={"root": str(tmp_path)})).open()
        assert auto.info.name == board.meter
        auto.close()


def test_every_kind_of_board_is_among_the_faked_ones(tmp_path: Path) -> None:
    named = set()
    for number, board in enumerate(b for b in BOARDS if b.meter == "jetson"):
        with opened(board, tmp_path / str(number)) as meter:
            named |= {b.name for b in boards() if f"rails as on the {b.name}" in meter.info.notes}
    assert named == {board.name for board in boards()}
    assert len(BOARDS) >= 14


def test_a_rail_fed_by_another_is_not_added(tmp_path: Path) -> None:
    """VDDQ_VDD2_1V8AO of AGX Orin hangs on VIN_SYS_5V0; jtop adds both."""
    with opened(AGX_ORIN, tmp_path) as meter:
        (rail,) = meter.info.rails
        assert rail.name == "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"
        ddr_w = 4.968 * 0.090
        assert meter.read().values[0] == pytest.approx(AGX_ORIN.total_w)
        assert AGX_ORIN.total_w + ddr_w > 1.03 * AGX_ORIN.total_w


def test_steps_and_offset_follow_from_shunt_and_voltage(tmp_path: Path) -> None:
    with opened(ORIN_NANO, tmp_path) as meter:
        (rail,) = meter.info.rails
    assert rail.resolution == pytest.approx(40e-6 / 5e-3 * 4.984)  # 8 mA
    assert rail.offset_error_w == pytest.approx(80e-6 / 5e-3 * 4.984)


def test_parts_are_disjoint_and_never_called_a_processor(tmp_path: Path) -> None:
    with opened(ORIN_NANO, tmp_path, rails="parts") as meter:
        assert [rail.name for rail in meter.info.rails] == ["VDD_CPU_GPU_CV", "VDD_SOC"]
        assert {rail.boundary for rail in meter.info.rails} == {Boundary.RAILS_SUM}
        assert meter.read().values == pytest.approx((4.976 * 0.128, 4.976 * 0.304))
        assert "do not make up the board" in " ".join(meter.info.notes)


def test_the_device_tree_is_named_and_rails_alone_are_a_guess(tmp_path: Path) -> None:
    with opened(ORIN_NANO, tmp_path / "a") as known:
        assert "rails as on the Jetson Orin Nano or Orin NX" in known.info.notes
    with opened(BY_NAME["a carrier that the device tree does not name"], tmp_path / "b") as guess:
        assert any(note.endswith("by its rails") for note in guess.info.notes)


def test_a_total_below_its_parts_is_flagged(tmp_path: Path) -> None:
    """Seen on a third party's carrier for the Nano: the labels are swapped."""
    write_files(tmp_path, ORIN_NANO.files)
    write_files(tmp_path, {f"{CHIP}/curr2_input": "1100"})
    with Jetson(root=str(tmp_path)).open() as meter:
        assert meter.info.flags == ("rail-labels-suspect",)


def test_unknown_rails_have_no_total(tmp_path: Path) -> None:
    write_files(tmp_path, ORIN_NANO.files)
    write_files(tmp_path, {f"{CHIP}/in1_label": "SOMETHING"})
    with pytest.raises(NoSensorError, match="no total is known for the rails SOMETHING"):
        Jetson(root=str(tmp_path)).open()


@pytest.mark.parametrize("text", ["", "garbage"])
def test_a_rail_of_the_total_that_cannot_be_read_is_no_smaller_total(
    text: str, tmp_path: Path
) -> None:
    write_files(tmp_path, AGX_ORIN.files)
    write_files(tmp_path, {"sys/class/hwmon/hwmon3/curr2_input": text})
    with pytest.raises(NoSensorError, match="rail VDD_CPU_CV, a part of the total, cannot be read"):
        Jetson(root=str(tmp_path)).open()


def test_a_rail_that_fails_later_leaves_no_value(tmp_path: Path) -> None:
    with opened(AGX_ORIN, tmp_path) as meter:
        (tmp_path / "sys/class/hwmon/hwmon3/curr2_input").write_text("garbage\n")
        sample = meter.read()
        assert sample.values[0] != sample.values[0]
        assert "VDD_GPU_SOC" in sample.fault


def test_without_chips_the_fix_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSensorError) as caught:
        Jetson(root=str(tmp_path)).open()
    assert "mount the host's tree" in caught.value.fix


def test_a_calibrated_total_is_another_boundary(tmp_path: Path) -> None:
    path = tmp_path / "calibration.toml"
    calibration = Calibration(
        board="NVIDIA Jetson Orin Nano",
        meter="jetson",
        reference="usb-meter 1",
        date="2026-01-01",
        boundary=Boundary.BOARD_DC_INPUT,
        gain=1.2,
        offset_w=0.5,
        gain_error=0.01,
        offset_error_w=0.1,
        residual_w=0.05,
        n=60,
    )
    save_calibration(calibration, path)
    with opened(ORIN_NANO, tmp_path, calibration=str(path)) as meter:
        raw, calibrated = meter.read().values
        assert calibrated == pytest.approx(1.2 * raw + 0.5)
        assert meter.info.rails[1].boundary is Boundary.BOARD_DC_INPUT
        assert meter.info.flags == ()
    with opened(AGX_ORIN, tmp_path / "other", calibration=str(path)) as meter:
        assert meter.info.flags == ("other-board(input)",)
    path.write_text(path.read_text().replace("1.2", "1.1"))
    with pytest.raises(ConfigError, match="do not fit its sha256"):
        opened(ORIN_NANO, tmp_path, calibration=str(path))
