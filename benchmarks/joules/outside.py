"""Meters beyond the kernel's tree: the Pi 5's sum, how sure a calibration is, a foreign clock.

codecarbon 3.3 leaves the HDMI rail out of the sum, as its source has it, and reads once per 15 s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fedcore.seeds import stream
from hardware.alignment import align
from hardware.calibration import fit
from hardware.meters.csv_replay import PowerTrace
from hardware.meters.rpi5 import RAILS, Rpi5

__all__ = ["rows"]

N_TRIALS = 100
VOLT = (3.70, 3.31, 1.80, 1.10, 0.60, 1.11, 0.80, 0.86, 3.31, 3.31, 0.80, 5.08)
AMPERE = {
    "idle": (0.01, 0.06, 0.16, 0.01, 0.00, 0.17, 0.31, 0.72, 0.0004, 0.0004, 0.006, 0.014),
    "four cores": (0.09, 0.09, 0.18, 0.22, 0.07, 0.18, 0.37, 6.11, 0.0001, 0.0004, 0.003, 0.024),
    "vector load": (0.00, 0.06, 0.16, 0.01, 0.00, 0.18, 0.33, 10.7, 0.0004, 0.0004, 0.006, 0.014),
}
GAIN, OFFSET_W = 1.21, 0.83


def rows() -> Iterator[str]:
    """The tables, one line at a time."""
    yield f"{'Raspberry Pi 5, faked':<26}{'sum W':>10}{'read W':>10}{'codecarbon W':>14}"
    for name, ampere in AMPERE.items():
        load_w = {rail: v * a for rail, v, a in zip(RAILS, VOLT, ampere, strict=True)}
        sum_w = sum(load_w.values())
        read_w = _read_w(dict(zip(RAILS, ampere, strict=True)))
        yield f"{name:<26}{sum_w:>10.3f}{read_w:>10.3f}{sum_w - load_w['HDMI']:>14.3f}"
    yield ""
    held, wide_w = np.array([_calibrate(trial) for trial in range(N_TRIALS)]).reshape(-1, 2).T
    yield f"{N_TRIALS} calibrations over three loads: truth inside the stated interval"
    yield f"{100 * held.mean():>36.1f}%, median half-width {np.median(wide_w):.3f} W"
    yield ""
    yield f"{N_TRIALS} alignments by a signature: error in samples of the meter"
    for rate_hz in (1, 2, 10):
        errors = np.array([_align(rate_hz, trial) for trial in range(N_TRIALS)])
        yield f"{rate_hz:>4} Hz   RMS {np.sqrt(np.mean(errors**2)):.2f}   worst {errors.max():.2f}"


def _read_w(ampere: Mapping[str, float]) -> float:
    lines = [f"{rail}_A current(0)={a:.8f}A" for rail, a in ampere.items()]
    lines += [f"{rail}_V volt(8)={v:.8f}V" for rail, v in zip(RAILS, VOLT, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model, program = root / "proc/device-tree/model", root / "usr/bin/vcgencmd"
        for file in (model, program):
            file.parent.mkdir(parents=True)
        model.write_text("Raspberry Pi 5 Model B Rev 1.0\0")
        program.write_text("\n".join(["#!/bin/sh", "cat <<END", *lines, "END", ""]))
        program.chmod(0o755)
        with Rpi5(root=folder, calibration="").open() as meter:
            return meter.read().values[0]


def _calibrate(trial: int) -> list[tuple[bool, float]]:
    """Per load: whether the true power lies within the stated interval, and its half-width."""
    rng = stream(0, "calibration", trial)
    levels_w = np.array([2.0, 5.0, 8.0])
    fast_s, slow_s = np.arange(0.03, 60, 0.1), np.arange(0.2, 60, 0.5)
    sensor_w, board_w = (levels_w[(t_s // 20).astype(int)] for t_s in (fast_s, slow_s))
    made = fit(
        PowerTrace(t_s=fast_s, power_w={"pmic": sensor_w + rng.normal(0, 0.1, fast_s.size)}),
        PowerTrace(
            t_s=slow_s,
            power_w={"usb": GAIN * board_w + OFFSET_W + rng.normal(0, 0.1, slow_s.size)},
        ),
        board="simulated",
        meter="rpi5",
        reference_meter="simulated",
        date="2026-01-01",
    )
    told = []
    for load_w in levels_w:
        true_w = GAIN * load_w + OFFSET_W
        half_w = float(np.hypot(made.gain_error * true_w, made.offset_error_w))
        told.append((abs(made.apply(load_w) - true_w) <= half_w, half_w))
    return told


def _align(rate_hz: float, trial: int) -> float:
    rng = stream(0, f"alignment {rate_hz}", trial)
    offset_s = float(rng.uniform(-1e4, 1e4))
    edges_s = 5000.0 + np.arange(6)
    mono_s = 4980 + rng.uniform(0, 1 / rate_hz) + np.arange(0, 60, 1 / rate_hz)
    power_w = 3 + 4 * (np.searchsorted(edges_s, mono_s, side="right") % 2)
    noisy_w = power_w + rng.normal(0, 0.1, mono_s.size)
    trace = PowerTrace(t_s=mono_s - offset_s, power_w={"plug": noisy_w})
    return abs(align(trace, [round(s * 1e9) for s in edges_s]).offset_s - offset_s) * rate_hz
