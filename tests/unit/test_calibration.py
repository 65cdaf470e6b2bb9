"""A calibration recovers the line, says how sure it is, and refuses what cannot carry one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import ConfigError, MeterError
from fedcore.seeds import stream
from hardware.calibration import (
    Calibration,
    calibrations,
    fit,
    load_calibration,
    save_calibration,
)
from hardware.meters.base import Rail
from hardware.meters.csv_replay import PowerTrace

GAIN, OFFSET_W = 1.21, 0.83
MADE = {
    "board": "Raspberry Pi 5 Model B Rev 1.0",
    "meter": "rpi5",
    "reference_meter": "usb-meter 1",
    "date": "2026-11-25",
}


def traces(trial: int, *, levels: tuple[float, ...] = (2.0, 5.0, 8.0), noise_w: float = 0.1):
    """A sensor at 10 Hz in two rails and a reference at 2 Hz, over loads of 20 s each."""
    rng = stream(7, "calibration", trial)

    def load_w(t_s: np.ndarray) -> np.ndarray:
        return np.array(levels)[np.minimum(t_s // 20, len(levels) - 1).astype(int)]

    fast_s, slow_s = np.arange(0.03, 20 * len(levels), 0.1), np.arange(0.2, 20 * len(levels), 0.5)
    sensor_w = load_w(fast_s) + rng.normal(0, noise_w, fast_s.size)
    reference_w = GAIN * load_w(slow_s) + OFFSET_W + rng.normal(0, noise_w, slow_s.size)
    return (
        PowerTrace(t_s=fast_s, power_w={"a": 0.4 * sensor_w, "b": 0.6 * sensor_w}),
        PowerTrace(t_s=slow_s, power_w={"reference": reference_w}),
    )


def test_the_line_is_recovered_and_the_truth_lies_in_the_interval() -> None:
    held = 0
    for trial in range(60):
        made = fit(*traces(trial), **MADE)
        assert made.n == 29  # the last window is cut off
        assert made.gain == pytest.approx(GAIN, abs=0.05)
        for load_w in (2.0, 5.0, 8.0):
            true_w = GAIN * load_w + OFFSET_W
            wide_w = np.hypot(made.gain_error * true_w, made.offset_error_w)
            held += abs(made.apply(load_w) - true_w) <= wide_w
            assert wide_w < 0.5
    assert held >= 0.95 * 180


def test_what_is_a_curve_stays_inside_the_interval_of_the_line() -> None:
    internal, _ = traces(5, noise_w=0.02)
    sensor_w = internal.power_w["a"] + internal.power_w["b"]
    curved_w = 1.2 * sensor_w + 0.05 * (sensor_w - 5) ** 2
    made = fit(internal, PowerTrace(t_s=internal.t_s, power_w={"r": curved_w}), **MADE)
    for load_w in (2.0, 5.0, 8.0):
        true_w = 1.2 * load_w + 0.05 * (load_w - 5) ** 2
        assert abs(made.apply(load_w) - true_w) > 0.05
        assert abs(made.apply(load_w) - true_w) <= made.offset_error_w


def test_few_windows_little_spread_and_unlike_traces_are_refused_in_one_line() -> None:
    internal, reference = traces(0)
    short = PowerTrace(t_s=reference.t_s[:60], power_w={"r": reference.power_w["reference"][:60]})
    for bad, why in (
        (lambda: fit(internal, short, **MADE), "14 windows.*at least 20"),
        (lambda: fit(*traces(0, levels=(5.0, 5.1, 5.0)), **MADE), "hardly changed"),
        (
            lambda: fit(
                internal,
                PowerTrace(t_s=reference.t_s, power_w={"r": reference.power_w["reference"][::-1]}),
                **MADE,
            ),
            "do not follow each other",
        ),
    ):
        with pytest.raises(MeterError, match=why) as caught:
            bad()
        assert "\n" not in str(caught.value)


def test_windows_with_an_unread_sample_are_left_out() -> None:
    internal, reference = traces(1)
    internal.power_w["a"][:100] = np.nan
    assert fit(internal, reference, **MADE).n == 24


def test_a_file_keeps_every_digit_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    made = fit(*traces(2), **MADE)
    path = tmp_path / "mine.toml"
    save_calibration(made, path)
    assert load_calibration(str(path), meter="rpi5") == made
    with pytest.raises(ConfigError, match="for the meter 'rpi5', not 'jetson'"):
        load_calibration(str(path), meter="jetson")
    text = path.read_text()
    for changed in (
        text.replace(f"gain = {made.gain}", f"gain = {made.gain + 0.01}"),
        text.replace("Rev 1.0", "Rev 1.1"),
        "\n".join(line for line in text.splitlines() if not line.startswith("sha256")),
    ):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(ConfigError, match="changed after the fit"):
            load_calibration(str(path), meter="rpi5")


def test_shipped_calibrations_are_whole_and_a_wrong_name_is_told(tmp_path: Path) -> None:
    assert calibrations() == ["raspberry-pi-5-literature"]
    shipped = load_calibration("raspberry-pi-5-literature", meter="rpi5")
    assert (shipped.gain, shipped.offset_w, shipped.n) == (1.139, 0.62, 0)
    with pytest.raises(ConfigError, match="raspberry-pi-5-literature"):
        load_calibration("raspberry-pi-5", meter="rpi5")
    with pytest.raises(ConfigError):
        load_calibration(str(tmp_path / "none.toml"), meter="rpi5")


def test_flags_tell_literature_and_another_board() -> None:
    made: Calibration = fit(*traces(3), **MADE)
    assert made.flags("input", board=MADE["board"]) == ()
    assert made.flags("input", board="Raspberry Pi 5 Model B Rev 1.1") == ("other-board(input)",)
    assert replace(made, n=0).flags("input", board=MADE["board"]) == ("literature(input)",)


def test_a_calibrated_rail_has_the_reference_boundary_and_its_interval() -> None:
    made = fit(*traces(4), **MADE)
    sensor = Rail(
        name="pmic",
        boundary=made.boundary.RAILS_SUM,
        kind="power",
        resolution=0.01,
        gain_error=0.3,
        max_power_w=10.0,
        update_s=0.02,
    )
    rail = made.rail("input", sensor)
    assert (rail.name, rail.boundary, rail.update_s) == ("input", made.boundary, 0.02)
    assert rail.gain_error == made.gain_error
    assert rail.offset_error_w == made.offset_error_w
    assert rail.max_power_w == made.apply(10.0)
