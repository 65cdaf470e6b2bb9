"""`leakwatt calibrate`: two meters are read on one clock, and a line is fitted between them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fedcore.energy import Boundary
from fedcore.errors import ConfigError, MeterError
from fedcore.plan import Choice
from fedcore.strict import build
from hardware.calibration import fit, load_calibration
from hardware.commands.calibrate import main
from hardware.commands.loads import record_under_load
from hardware.meters.base import OpenMeter
from hardware.registry import METERS

GAIN, OFFSET_W = 1.12, 0.6


def replaying(path: Path, boundary: Boundary, *, gain: float, offset_w: float) -> OpenMeter:
    """A meter that shows a staircase of 0.2 s steps, bent by a line."""
    steps_w = np.repeat(3 + 4 * np.random.default_rng(0).random(30), 2)
    t_s = np.arange(30).repeat(2) * 0.2 + np.tile([0, 0.199], 30)
    rows = "".join(f"{t},{gain * w + offset_w}\n" for t, w in zip(t_s, steps_w, strict=True))
    path.write_text(f"t_s,in\n{rows}")
    options = {"path": str(path), "boundary": boundary.value}
    return build(METERS, Choice(name="csv-replay", options=options)).open()


def test_what_was_recorded_gives_the_line_back(tmp_path: Path) -> None:
    with (
        replaying(tmp_path / "own.csv", Boundary.RAILS_SUM, gain=1, offset_w=0) as internal,
        replaying(
            tmp_path / "ref.csv", Boundary.BOARD_DC_INPUT, gain=GAIN, offset_w=OFFSET_W
        ) as reference,
    ):
        traces = record_under_load([internal, reference], seconds=5.0, loads=False, step_s=1.0)
    found = fit(
        *traces,
        board="a board",
        meter="csv-replay",
        reference_meter="ref",
        date="2026-01-01",
        window_s=0.24,
    )
    assert found.gain == pytest.approx(GAIN, abs=0.15)
    assert abs(found.gain * 5 + found.offset_w - (GAIN * 5 + OFFSET_W)) < 0.3
    assert found.boundary is Boundary.BOARD_DC_INPUT


def test_counters_are_refused(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "5"), ("max_energy_range_uj", "999")):
        (zone / name).write_text(f"{text}\n")
    with (
        build(METERS, Choice(name="rapl", options={"root": str(tmp_path)})).open() as counter,
        pytest.raises(MeterError, match="rapl counts joules; a calibration compares watts"),
    ):
        record_under_load([counter], seconds=0.1)


def test_a_log_with_a_clock_of_its_own_is_aligned_and_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its clock is 1234 s behind ours; the signature is the three burns at the begin."""
    rng = np.random.default_rng(0)
    t_s = np.arange(0, 120, 0.25)
    burns = [(5, 8), (11, 14), (17, 20)]
    load_w = 3 + 3 * (np.floor(t_s / 12) % 3) / 2 * (t_s > 25)
    for begin, end in burns:
        load_w[(t_s >= begin) & (t_s < end)] = 7
    power_w = load_w + 0.02 * rng.normal(size=t_s.size)
    log = {
        "board": "Raspberry Pi 5 Model B",
        "meter": "rpi5",
        "instants": [int(x * 1e9) for burn in burns for x in burn],
        "t_s": t_s.tolist(),
        "power_w": {"pmic": power_w.tolist()},
    }
    (tmp_path / "log.json").write_text(json.dumps(log))
    rows = "".join(f"{t - 1234},{GAIN * w + OFFSET_W}\n" for t, w in zip(t_s, load_w, strict=True))
    (tmp_path / "meter.csv").write_text(f"t_s,in\n{rows}")
    out = tmp_path / "calibration.toml"
    command = ["--reference", "csv", "--reference-option", f"path={tmp_path / 'meter.csv'}"]
    assert main([*command, "--log", str(tmp_path / "log.json"), "--out", str(out)]) == 0
    found = load_calibration(str(out), meter="rpi5")
    assert found.gain == pytest.approx(GAIN, abs=0.05)
    assert found.offset_w == pytest.approx(OFFSET_W, abs=0.25)
    assert found.board == "Raspberry Pi 5 Model B"
    offset_s, uncertainty_s = re.findall(r"lies ([\d.]+) ± ([\d.]+) s", capsys.readouterr().err)[0]
    assert abs(float(offset_s) - 1234) <= float(uncertainty_s) <= 0.2


def test_a_log_of_our_side_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    command = ["--reference", "csv", "--reference-option", f"path={tmp_path / 'meter.csv'}"]
    with pytest.raises(ConfigError, match="make it with --reference csv alone"):
        main([*command, "--log", str(tmp_path / "none.json")])
