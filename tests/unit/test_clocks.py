"""Clocks: a step and a suspension are told apart, and neither from a quiet machine."""

from __future__ import annotations

import pytest

from hardware.clocks import ClockOffsets, clock_flags, read_offsets

START = ClockOffsets(wall_ns=1_700_000_000_000_000_000, boot_ns=5_000_000_000)
S = 1_000_000_000


@pytest.mark.parametrize(
    ("wall_s", "boot_s", "flags"),
    [
        (0.0, 0.0, ()),
        (0.001, -0.001, ()),  # two clocks are never read at the same instant
        (0.5, 0.0, ("clock-step",)),
        (-3600.0, 0.0, ("clock-step",)),
        (90.0, 90.0, ("suspended",)),  # asleep, and the wall clock is right again
        (0.0, 90.0, ("clock-step", "suspended")),
    ],
)
def test_a_step_and_a_suspension(wall_s: float, boot_s: float, flags: tuple[str, ...]) -> None:
    end = ClockOffsets(START.wall_ns + int(wall_s * S), START.boot_ns + int(boot_s * S))
    assert clock_flags(START, end) == flags


def test_the_clocks_of_this_machine_run_together() -> None:
    first = read_offsets()
    assert first.boot_ns >= -1_000_000
    for _ in range(100):
        assert clock_flags(first, read_offsets()) == ()
