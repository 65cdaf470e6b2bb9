"""The sampler's instants: jittered so that nothing aliases; and its lines, spoken by hand."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedcore.strict import parse
from hardware.meters.base import MeterInfo
from hardware.sampler import next_instant_ns

ROOT = Path(__file__).parents[2]
PERIOD_NS = 100


def instants(n: int) -> np.ndarray:
    rng, seen = random.Random(0), [0]
    for _ in range(n):
        seen.append(next_instant_ns(seen[-1], now_ns=0, period_ns=PERIOD_NS, rng=rng))
    return np.array(seen)


def test_gaps_are_uniform_from_half_a_period_to_one_and_a_half() -> None:
    gaps = np.diff(instants(10_000))
    assert gaps.min() == PERIOD_NS // 2
    assert gaps.max() == 3 * PERIOD_NS // 2 - 1
    counts = np.bincount(gaps - gaps.min())
    # Chi-squared with 99 degrees of freedom: mean 99, standard deviation sqrt(198).
    assert np.sum((counts - 100) ** 2 / 100) < 99 + 6 * np.sqrt(198)


@pytest.mark.parametrize("divisor", [1, 2, 5])
def test_a_load_of_the_same_period_is_seen_at_independent_phases(divisor: int) -> None:
    phases = np.exp(2j * np.pi * divisor * instants(10_000) / PERIOD_NS)
    for lag in (1, 2, 3):
        # A mean of 10 000 independent directions is .01 long.
        assert abs(np.mean(phases[lag:] * phases[:-lag].conj())) < 0.04


def test_an_instant_that_was_missed_is_now() -> None:
    rng = random.Random(0)
    assert next_instant_ns(0, now_ns=77_777, period_ns=PERIOD_NS, rng=rng) == 77_777
    later = next_instant_ns(77_777, now_ns=77_778, period_ns=PERIOD_NS, rng=rng)
    assert 50 <= later - 77_777 < 150  # and what was missed is not made up for


def speak(meter: str, said: str) -> list[str]:
    """What the sampler answers to some input, before that ends."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hardware.sampler", "--period-s", "1000"),
            *("--meter", meter, "--parent", str(os.getpid())),
        ],
        input=said,
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_its_lines(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,a,b\n0,1,2\n1000,1,2\n")
    meter = json.dumps({"name": "csv-replay", "options": {"path": str(trace)}})
    first, *rest = speak(meter, "mark 1\nmark 2\n")
    kind, _, info = first.partition(" ")
    assert kind == "meter"
    assert [rail.name for rail in parse(MeterInfo, json.loads(info), where="it").rails] == [
        "a",
        "b",
    ]
    samples = [line.split() for line in rest if not line.startswith("mark")]
    assert [line for line in rest if line.startswith("mark")] == ["mark 1", "mark 2"]
    assert rest[-1] == "mark 2"
    assert len(samples) == 3  # at the start, and one per mark
    assert [values for _, *values in samples] == [["1.0", "2.0"]] * 3
    times = [int(time_ns) for time_ns, *_ in samples]
    assert times == sorted(set(times))


def test_a_meter_that_does_not_open_is_one_line() -> None:
    (line,) = speak('{"name": "csv-replay", "options": {"path": "/nowhere"}}', "")
    assert line.startswith("absent /nowhere: ")
    (line,) = speak('{"name": "csvreplay"}', "")
    assert "did you mean 'csv-replay'" in line
