"""A window in words, and as a table: what was measured, or what is guessed and says so."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from fedcore.energy import Baseline, EnergyReading, NetEnergy, WindowRecord, net_energy
from fedcore.errors import MeterError
from fedcore.strict import canonical_json, to_table
from fedcore.types import Missing

__all__ = ["Idle", "as_table", "as_text", "mean_w", "nothing", "watts"]

Idle = tuple[Baseline, Baseline]
"""Before the work, and after it."""

_WHAT_TO_DO = (
    "`leakwatt doctor` names the fix for each sensor that this machine has. On a board without "
    "one, wire an INA226 into its 5 V feed, put a USB meter (UM25C) before it, or a smart plug "
    "(Shelly, Tasmota) behind it; docs/energy.md says how."
)
_WIDTH = 96


def as_text(record: WindowRecord, idle: Idle | None = None) -> str:
    """One window for people: what was measured, with its interval and boundary, or what is guessed.

    Args:
        record: the window's.
        idle: baselines before and after; the net energy is then shown, too.
    """
    return "\n".join(_lines(record, idle)) + "\n"


def as_table(record: WindowRecord, idle: Idle | None = None) -> dict[str, Any]:
    """The same for scripts."""
    table: dict[str, Any] = json.loads(canonical_json(record))
    if idle:
        table["idle"] = dict(zip(("before", "after"), map(to_table, idle), strict=True))
        if not isinstance(record.measured, Missing):
            table["net"] = [to_table(_net(reading, idle)) for reading in record.measured]
    return table


def watts(record: WindowRecord) -> str:
    """The mean powers of a short window, on one line."""
    if isinstance(record.measured, Missing):
        return f"no reading: {record.measured.why}"
    return "   ".join(
        f"{r.rail} {mean_w(r):.3f} ± {r.uncertainty_j / (r.coverage * r.duration_s):.2g} W "
        f"({', '.join((r.boundary.value, *r.flags))})"
        for r in record.measured
    )


def mean_w(reading: EnergyReading) -> float:
    """Mean power over the part of the window that samples cover, in W."""
    return reading.energy_j / (reading.coverage * reading.duration_s)


def _lines(record: WindowRecord, idle: Idle | None) -> Iterator[str]:
    if isinstance(record.measured, Missing):
        yield from nothing(record.measured.why)
        yield from _modelled(record)
    else:
        for reading in record.measured:
            marks = ", ".join((reading.boundary.value, reading.meter, *reading.flags))
            yield (
                f"measured   {reading.energy_j:.4g} ± {reading.uncertainty_j:.2g} J, "
                f"{mean_w(reading):.3g} W   {reading.rail} ({marks}); "
                f"{reading.n_samples} samples over {100 * reading.coverage:.0f} % of the time"
            )
            if idle:
                yield _net_text(_net(reading, idle))
    yield f"time       {record.duration_s:.3f} s, of them {record.cpu_s:.3f} s of CPU"


def _net(reading: EnergyReading, idle: Idle) -> NetEnergy | Missing:
    try:
        return net_energy(reading, before=idle[0], after=idle[1])
    except MeterError as error:
        return Missing(why=str(error))


def _net_text(net: NetEnergy | Missing) -> str:
    if isinstance(net, Missing):
        return f"  net      none: {net.why}"
    return (
        f"  net      {net.energy_j:.4g} ± {net.uncertainty_j:.2g} J "
        f"above {net.idle_w:.3g} W of idling"
    )


def _modelled(record: WindowRecord) -> Iterator[str]:
    if isinstance(record.modelled, Missing):
        yield f"MODELLED   nothing: {record.modelled.why}"
        return
    energy = record.modelled
    yield (
        f"MODELLED   {energy.energy_j:.3g} J ({energy.low_j:.3g} to {energy.high_j:.3g}): "
        f"{energy.inputs}, an estimate by {energy.model}"
    )


def nothing(why: str) -> Iterator[str]:
    """What is said where no meter reads, and what to do about it."""
    yield from _wrapped(f"measured   nothing: {why}")
    yield from _wrapped(f"to measure {_WHAT_TO_DO}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False
    )
