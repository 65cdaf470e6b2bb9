"""The sampler's instants: one in each slot, anywhere in it; and its lines, spoken by hand."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

from fedcore.strict import parse
from hardware.meters.base import MeterInfo
from hardware.sampler import slot_instants_ns

ROOT = Path(__file__).parents[2]
PERIOD_NS = 100


def test_each_slot_has_one_instant_anywhere_in_it() -> None:
    start_ns = 12_345
    instants = slot_instants_ns(start_ns, PERIOD_NS, random.Random(0))
    seen = [next(instants)]
    for _ in range(9_999):
        seen.append(instants.send(seen[-1]))
    slots, offsets = np.divmod(np.array(seen) - start_ns, PERIOD_NS)
    np.testing.assert_array_equal(slots, np.arange(1, 10_001))
    counts = np.bincount(offsets, minlength=PERIOD_NS)
    # Chi-squared with 99 degrees of freedom: mean 99, standard deviation sqrt(198).
    assert np.sum((counts - 100) ** 2 / 100) < 99 + 6 * np.sqrt(198)


def test_slots_that_were_missed_are_skipped() -> None:
    instants = slot_instants_ns(0, PERIOD_NS, random.Random(0))
    next(instants)
    for late_ns in (151, 1_049, 1_050, 77_777):
        assert instants.send(late_ns) // PERIOD_NS == late_ns // PERIOD_NS + 1


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
