"""The health check: a file's age against a bound."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedcore.health", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("age_s", "bound", "code"), [(0, [], 0), (90, [], 1), (90, [300], 0), (400, [300], 1)]
)
def test_a_pulse_is_felt_within_a_minute_or_within_the_time_given(
    age_s: float, bound: list[float], code: int, tmp_path: Path
) -> None:
    pulse = tmp_path / "pulse"
    pulse.touch()
    touched_s = time.time() - age_s
    os.utime(pulse, (touched_s, touched_s))
    done = check(pulse, *bound)
    assert done.returncode == code
    assert done.stderr.count("\n") == (0 if code == 0 else 1)


def test_a_file_that_is_not_there_has_no_pulse(tmp_path: Path) -> None:
    done = check(tmp_path / "none")
    assert done.returncode == 1
    assert "missing" in done.stderr


@pytest.mark.parametrize("bound", ["soon", "0", "-1", "nan"])
def test_a_bound_that_is_no_time_is_bad_usage(bound: str, tmp_path: Path) -> None:
    assert check(tmp_path, bound).returncode == 2
