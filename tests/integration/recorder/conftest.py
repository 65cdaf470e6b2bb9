"""Recorders over replayed traces, with real samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fedcore.energy import EnergyReading, WindowRecord
from fedcore.plan import Choice
from fedcore.types import Missing
from hardware.window import Recorder, Window

PERIOD_S = 0.1  # a gap is three periods: long enough for a busy machine to keep up

MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[MakeRecorder]:
    """Make a recorder that replays a trace given as (t_s, W) points; closed at the end."""
    made: list[Recorder] = []

    def make(*points: tuple[float, float], shared_by: int = 1, start_mono_ns: int = 0) -> Recorder:
        path = tmp_path / f"trace-{len(made)}.csv"
        path.write_text("t_s,VDD_IN\n" + "".join(f"{t},{w}\n" for t, w in points))
        options = {"path": str(path), "start_mono_ns": start_mono_ns}
        made.append(
            Recorder(
                meter=Choice(name="csv-replay", options=options),
                period_s=PERIOD_S,
                shared_by=shared_by,
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def the_reading(record: WindowRecord) -> EnergyReading:
    assert not isinstance(record.measured, Missing), record.measured
    (reading,) = record.measured
    return reading


def record_of(window: Window) -> WindowRecord:
    assert window.record is not None
    return window.record


def sampler_pid() -> int:
    (child,) = psutil.Process().children()
    return child.pid


STEADY = ((0.0, 10.0), (1000.0, 10.0))
