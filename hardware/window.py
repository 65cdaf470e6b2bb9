"""Energy windows: `with measured(recorder, Phase.TRAIN, phases): ...` appends what it cost.

Windows nest, overlap and work from several threads: a window is a begin and an end on
CLOCK_MONOTONIC, and every open window looks at the same samples. The begin is taken after an
edge sample and the end before one, so that samples close in on the window from outside. Whatever
happens to meter or sampler, the work inside the window goes on: the reading is missing, and says
why.
"""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedcore.energy import EnergyReading, ModelledEnergy, Phase, PhaseRecord
from fedcore.errors import MeterError
from fedcore.plan import Choice
from fedcore.strict import build
from fedcore.types import Missing
from hardware.integrate import WindowEnergy, integrate_counter, integrate_power
from hardware.meters.base import MeterInfo, NoSensorError, Rail, Sample
from hardware.modelled import load_energy_model
from hardware.registry import METERS
from hardware.sampler_link import SamplerLink

__all__ = ["Recorder", "Window", "measured"]

_AUTO = Choice(name="auto")
_GAP_PERIODS = 3  # jittered samples lie up to two periods apart


@dataclass(frozen=True, kw_only=True)
class Window:
    """An open window: what `Recorder.begin` gives and `Recorder.end` takes."""

    start_ns: int
    start_cpu_s: float


@contextlib.contextmanager
def measured(recorder: Recorder, phase: Phase, into: list[PhaseRecord]) -> Iterator[None]:
    """Append the record of what happens inside, even when that raises."""
    window = recorder.begin()
    try:
        yield
    finally:
        into.append(recorder.end(window, phase))


class Recorder:
    """A meter with its sampler, and an energy model, ready to price windows.

    Use it as a context manager, or call `close`.

    Args:
        meter: registered meter and its options. One that cannot read here is no error: readings
            are then missing, with its reason.
        period_s: mean time between samples.
        energy_model: table that prices CPU time; "" for none.
        shared_by: clients whose work the same meter sees; more than one flags every reading
            "shared(n)", and such readings are never added over clients.

    Attributes:
        meter: what is measured, or why nothing is.

    Raises:
        ConfigError: no meter or table of that name, or an option is wrong.
    """

    def __init__(
        self,
        *,
        meter: Choice = _AUTO,
        period_s: float = 0.1,
        energy_model: str = "generic-x86-thread",
        shared_by: int = 1,
    ) -> None:
        self._model = load_energy_model(energy_model) if energy_model else None
        self._flags = (f"shared({shared_by})",) if shared_by > 1 else ()
        self._lock = threading.Lock()
        self._open: list[Window] = []
        self._samples: list[Sample] = []
        self._max_gap_s = _GAP_PERIODS * period_s
        self._link: SamplerLink | None = None
        self.meter = _probe(meter)
        if isinstance(self.meter, MeterInfo):
            try:
                self._link = SamplerLink(meter, period_s=period_s)
                self.meter = self._link.info
                self._max_gap_s = _GAP_PERIODS * max(period_s, self.meter.period_s)
            except MeterError as error:
                self.meter = Missing(why=str(error))

    def begin(self) -> Window:
        """Open a window."""
        with self._lock:
            self._mark()
            window = Window(start_ns=time.monotonic_ns(), start_cpu_s=_cpu_s())
            self._open.append(window)
        return window

    def end(self, window: Window, phase: Phase) -> PhaseRecord:
        """Close a window and price it. Never raises for a meter or sampler that failed."""
        end_ns = time.monotonic_ns()
        cpu_s = _cpu_s() - window.start_cpu_s
        with self._lock:
            silence = self._mark()
            measured_j = silence or self._read(window, end_ns)
            self._open.remove(window)
            self._forget()
        duration_s = (end_ns - window.start_ns) * 1e-9
        return PhaseRecord(
            phase=phase,
            start_mono_ns=window.start_ns,
            duration_s=duration_s,
            cpu_s=cpu_s,
            measured=measured_j,
            modelled=self._estimate(cpu_s=cpu_s, duration_s=duration_s),
        )

    def close(self) -> None:
        """End the sampler; a second call does nothing."""
        with self._lock:
            if self._link:
                self._link.close()
                self._link = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _mark(self) -> Missing | None:
        """Have an edge sample taken and fetch all samples; say why, where that failed."""
        if isinstance(self.meter, Missing):
            return self.meter
        if self._link is None:
            return Missing(why="the recorder is closed")
        try:
            self._samples += self._link.mark()
        except MeterError as error:
            return Missing(why=str(error))
        return None

    def _read(self, window: Window, end_ns: int) -> tuple[EnergyReading, ...] | Missing:
        """One reading per rail; a rail without one is named in the flags of the others."""
        if isinstance(self.meter, Missing):
            return self.meter
        samples = self._samples[self._first_of(window.start_ns) :]
        t_s = np.array([sample.mono_ns - window.start_ns for sample in samples]) * 1e-9
        values = np.array([sample.values for sample in samples])
        energies: dict[Rail, WindowEnergy] = {}
        lost: dict[str, str] = {}
        for i, rail in enumerate(self.meter.rails):
            try:
                energies[rail] = _integrate(
                    rail,
                    t_s,
                    values[:, i],
                    end_s=(end_ns - window.start_ns) * 1e-9,
                    max_gap_s=self._max_gap_s,
                )
            except MeterError as error:
                lost[rail.name] = str(error)
        if not energies:
            faults = [sample.fault for sample in samples if sample.fault]
            reasons = [f"{rail}: {why}" for rail, why in lost.items()]
            return Missing(why="; ".join([*reasons, *faults[-1:]]))
        common = (*self.meter.flags, *self._flags, *(f"without({rail})" for rail in lost))
        return tuple(
            EnergyReading(
                energy_j=energy.energy_j,
                uncertainty_j=energy.uncertainty_j,
                duration_s=(end_ns - window.start_ns) * 1e-9,
                rail=rail.name,
                boundary=rail.boundary,
                method="counter" if rail.kind == "counter" else "integrated",
                coverage=energy.coverage,
                n_samples=energy.n_samples,
                longest_gap_s=energy.longest_gap_s,
                meter=self.meter.source,
                flags=tuple(sorted((*energy.flags, *common))),
            )
            for rail, energy in energies.items()
        )

    def _first_of(self, start_ns: int) -> int:
        """Index of the first sample that a window of that begin looks at."""
        context_ns = start_ns - int(self._max_gap_s * 1e9)
        return bisect_left(self._samples, context_ns, key=lambda sample: sample.mono_ns)

    def _forget(self) -> None:
        """Drop the samples that no window, open or coming, looks at."""
        oldest_ns = min((w.start_ns for w in self._open), default=time.monotonic_ns())
        del self._samples[: self._first_of(oldest_ns)]

    def _estimate(self, *, cpu_s: float, duration_s: float) -> ModelledEnergy | Missing:
        if self._model is None:
            return Missing(why="no energy model was named")
        return self._model.estimate(cpu_s=cpu_s, duration_s=duration_s)


def _probe(meter: Choice) -> MeterInfo | Missing:
    """Open the meter for a moment: one that does not open here is not worth a process."""
    try:
        with build(METERS, meter).open() as opened:
            info = opened.info
    except NoSensorError as error:
        return Missing(why=f"{meter.name}: {error.what}")
    return Missing(why=info.absent) if info.absent else info


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


def _cpu_s() -> float:
    """CPU time of this process with all its threads, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
