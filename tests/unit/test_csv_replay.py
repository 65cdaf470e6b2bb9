"""Recorded traces: read strictly, replayed on the clock."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fedcore.energy import Boundary
from fedcore.errors import MeterError
from hardware.meters.base import NoSensorError
from hardware.meters.csv_replay import CsvReplay, read_trace


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("t_s,VDD_IN,VDD_SOC\n10,3,1\n12,7,1.5\n16,7,2.5\n")
    return path


def test_a_trace_is_read_by_rail(trace: Path) -> None:
    read = read_trace(trace)
    np.testing.assert_array_equal(read.t_s, [10, 12, 16])
    np.testing.assert_array_equal(read.power_w["VDD_SOC"], [1, 1.5, 2.5])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "header"),
        ("time,VDD_IN\n0,1\n1,1\n", "header"),
        ("t_s\n0\n1\n", "header"),
        ("t_s,a,a\n0,1,1\n1,1,1\n", "header"),
        ("t_s,a\n0,1\n", "at least 2"),
        ("t_s,a\n0,1\n1,x\n", ":3: "),
        ("t_s,a\n0,1\n1\n", ":3: "),
        ("t_s,a\n0,1\n1,nan\n", ":3: "),
        ("t_s,a\n0,1\n\n\n1,x\n", ":5: "),
        ("t_s,a\n0,1\n\n1,1\n1,1\n", ":5: t_s does not rise"),
    ],
)
def test_a_wrong_file_gets_one_line_that_names_it(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(MeterError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert str(path) in message
    assert named in message
    assert "\n" not in message


def test_a_replay_is_linear_between_samples_and_ends(trace: Path) -> None:
    now_ns = [1_000]
    replay = CsvReplay(path=str(trace), boundary=Boundary.MODULE_INPUT, resolution_w=0.04)
    with replay.open(now_ns=lambda: now_ns[0]) as meter:
        assert [rail.name for rail in meter.info.rails] == ["VDD_IN", "VDD_SOC"]
        assert {rail.boundary for rail in meter.info.rails} == {Boundary.MODULE_INPUT}
        seen = []
        for t_s in (0, 1, 2, 3, 6):
            now_ns[0] = 1_000 + t_s * 1_000_000_000
            seen.append(meter.read().values)
        assert seen == [(3, 1), (5, 1.25), (7, 1.5), (7, 1.75), (7, 2.5)]
        now_ns[0] += 1
        over = meter.read()
        assert all(map(math.isnan, over.values))
        assert "lasts 6 s" in over.fault


def test_a_loop_begins_again(trace: Path) -> None:
    now_ns = [0]
    replay = CsvReplay(path=str(trace), loop=True, start_mono_ns=5_000_000_000)
    with replay.open(now_ns=lambda: now_ns[0]) as meter:
        for turn in range(3):
            now_ns[0] = (5 + 6 * turn + 1) * 1_000_000_000
            assert meter.read().values == pytest.approx((5, 1.25))


def test_a_missing_file_is_no_meter(tmp_path: Path) -> None:
    with pytest.raises(NoSensorError, match=r"absent\.csv"):
        CsvReplay(path=str(tmp_path / "absent.csv")).open()
