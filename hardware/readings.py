"""From a meter's samples to the readings of a window: one per rail, with its provenance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedcore.energy import EnergyReading
from fedcore.errors import MeterError
from fedcore.types import Missing
from hardware.integrate import WindowEnergy, integrate_counter, integrate_power
from hardware.meters.base import MeterInfo, Rail, Sample

__all__ = ["read_window"]


def read_window(
    info: MeterInfo,
    samples: Sequence[Sample],
    *,
    start_ns: int,
    end_ns: int,
    max_gap_s: float,
    flags: Sequence[str] = (),
) -> tuple[EnergyReading, ...] | Missing:
    """One reading per rail; a rail without one is named in the flags of the others.

    Args:
        info: what the meter measures.
        samples: in order of time, from before the window to its end.
        start_ns: begin of the window on CLOCK_MONOTONIC.
        end_ns: its end.
        max_gap_s: samples further apart do not say what happened between them.
        flags: of the window, for every reading.
    """
    t_s = np.array([sample.mono_ns - start_ns for sample in samples]) * 1e-9
    values = np.array([sample.values for sample in samples]).reshape(len(samples), len(info.rails))
    duration_s = (end_ns - start_ns) * 1e-9
    energies: dict[Rail, WindowEnergy] = {}
    lost: dict[str, str] = {}
    for i, rail in enumerate(info.rails):
        try:
            energies[rail] = _integrate(
                rail, t_s, values[:, i], end_s=duration_s, max_gap_s=max_gap_s
            )
        except MeterError as error:
            lost[rail.name] = str(error)
    if not energies:
        faults = [sample.fault for sample in samples if sample.fault]
        reasons = [f"{rail}: {why}" for rail, why in lost.items()]
        return Missing(why="; ".join([*reasons, *faults[-1:]]))
    common = (*info.flags, *flags, *(f"without({rail})" for rail in lost))
    has_failed = dict(zip(info.rails, np.isnan(values[t_s >= 0]).any(axis=0), strict=True))
    return tuple(
        EnergyReading(
            energy_j=energy.energy_j,
            uncertainty_j=energy.uncertainty_j,
            duration_s=duration_s,
            rail=rail.name,
            boundary=rail.boundary,
            method="counter" if rail.kind == "counter" else "integrated",
            coverage=energy.coverage,
            n_samples=energy.n_samples,
            longest_gap_s=energy.longest_gap_s,
            meter=info.source,
            flags=tuple(
                sorted((*energy.flags, *common, *["read-failed"] * bool(has_failed[rail])))
            ),
        )
        for rail, energy in energies.items()
    )


def _integrate(
    rail: Rail,
    t_s: np.ndarray,
    values: np.ndarray,
    *,
    end_s: float,
    max_gap_s: float,
) -> WindowEnergy:
    """The energy of one rail between 0 and `end_s`."""
    if rail.kind == "power":
        return integrate_power(
            t_s,
            values,
            start_s=0.0,
            end_s=end_s,
            max_gap_s=max_gap_s,
            max_power_w=rail.max_power_w,
            resolution_w=rail.resolution,
            update_s=rail.update_s,
            gain_error=rail.gain_error,
            offset_error_w=rail.offset_error_w,
        )
    return integrate_counter(
        t_s,
        values,
        start_s=0.0,
        end_s=end_s,
        max_gap_s=max_gap_s,
        max_power_w=rail.max_power_w,
        wraps_at_j=rail.wraps_at_j,
        resolution_j=rail.resolution,
        update_s=rail.update_s,
        gain_error=rail.gain_error,
    )
