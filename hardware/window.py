"""Energy windows: `with measured(recorder, "train") as window: ...`, then `window.record`.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fedcore.energy import Baseline, EnergyReading, IdlePower, ModelledEnergy, Phase, WindowRecord
from fedcore.errors import MeterError
from fedcore.plan import Choice
from fedcore.strict import build
from fedcore.types import Missing
from hardware.clocks import ClockOffsets, clock_flags, read_offsets
from hardware.meters.base import MeterInfo, NoSensorError, Sample
from hardware.modelled import load_energy_model
from hardware.readings import read_window
from hardware.registry import METERS
from hardware.sampler_keeper import SamplerKeeper

__all__ = ["Recorder", "Window", "measured"]

_AUTO = Choice(name="auto")
_FRESH_NS = 2_000_000  # of a sample that may stand at a window's begin
_GAP_PERIODS = 3  # samples lie up to 1.5 periods apart, where the machine is not busy
_CONTEXT_UPDATES = 8  # before a window: they tell how a late value changes (ours)


@dataclass(kw_only=True, eq=False)
class Window:
    """A window: what `Recorder.begin` opens and `Recorder.end` closes.

    Attributes:
        name: of the record.
        start_ns: begin on CLOCK_MONOTONIC.
        record: what it cost, once it is closed.
    """

    name: str
    start_ns: int
    start_cpu_s: float = field(repr=False)
    start_clocks: ClockOffsets = field(repr=False)
    record: WindowRecord | None = None


@contextlib.contextmanager
def measured(
    recorder: Recorder, name: str | Phase, into: list[WindowRecord] | None = None
) -> Iterator[Window]:
    """Measure what happens inside, even when that raises; a decorator as well.

        with measured(recorder, "train") as window:
            train()
        print(window.record)

        @measured(recorder, "train", records)
        def train(): ...

    Args:
        recorder: with what to measure.
        name: of the record.
        into: gets every record; a decorated function's have no other way out.
    """
    window = recorder.begin(name)
    try:
        yield window
    finally:
        record = recorder.end(window)
        if into is not None:
            into.append(record)


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
        clocks: how far the machine's other clocks are ahead of the monotonic one.

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
        clocks: Callable[[], ClockOffsets] = read_offsets,
    ) -> None:
        self._model = load_energy_model(energy_model) if energy_model else None
        self._flags = (f"shared({shared_by})",) if shared_by > 1 else ()
        self._clocks = clocks
        self._lock = threading.Lock()
        self._open: list[Window] = []
        self._samples: list[Sample] = []
        self._max_gap_s = _GAP_PERIODS * period_s
        self._sampler: SamplerKeeper | None = None
        self.meter = _probe(meter)
        if isinstance(self.meter, MeterInfo):
            try:
                self._sampler = SamplerKeeper(meter, period_s=period_s)
                self.meter = self._sampler.info
                self._max_gap_s = _GAP_PERIODS * max(period_s, self.meter.period_s)
            except MeterError as error:
                self.meter = Missing(why=str(error))

    def begin(self, name: str | Phase) -> Window:
        """Open a window."""
        with self._lock:
            if not self._has_fresh_sample():
                self._mark()
            window = Window(
                name=name.value if isinstance(name, Phase) else name,
                start_clocks=self._clocks(),
                start_cpu_s=_cpu_s(),
                start_ns=time.monotonic_ns(),
            )
            self._open.append(window)
        return window

    def end(self, window: Window) -> WindowRecord:
        """Close a window and price it. Never raises for a meter or sampler that failed.

        Raises:
            MeterError: it is not an open window of this recorder.
        """
        end_ns = time.monotonic_ns()
        cpu_s = _cpu_s() - window.start_cpu_s
        with self._lock:
            if window not in self._open:
                raise MeterError(f"{window.name!r} is no open window of this recorder; end it once")
            silence = self._mark()
            readings = silence or self._read(window, end_ns)
            self._open.remove(window)
            self._forget()
        duration_s = (end_ns - window.start_ns) * 1e-9
        window.record = WindowRecord(
            name=window.name,
            start_mono_ns=window.start_ns,
            duration_s=duration_s,
            cpu_s=cpu_s,
            measured=readings,
            modelled=self._estimate(cpu_s=cpu_s, duration_s=duration_s),
        )
        return window.record

    def baseline(self, duration_s: float) -> Baseline:
        """Measure the idle power of every rail: let nothing else run for so long, in s.

        It blocks. Take one before the work and one after it; `fedcore.energy.net_energy` takes
        their mean off a reading.
        """
        window = self.begin("baseline")
        time.sleep(duration_s)
        record = self.end(window)
        return Baseline(
            start_mono_ns=record.start_mono_ns,
            duration_s=record.duration_s,
            rails=_idle_power(record),
        )

    def close(self) -> None:
        """End the sampler; a second call does nothing."""
        with self._lock:
            if self._sampler:
                self._sampler.close()
                self._sampler = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _mark(self) -> Missing | None:
        """Have an edge sample taken and fetch all samples; say why, where that failed."""
        if isinstance(self.meter, Missing):
            return self.meter
        if self._sampler is None:
            return Missing(why="the recorder is closed")
        try:
            self._samples += self._sampler.mark()
        except MeterError as error:
            return Missing(why=str(error))
        return None

    def _has_fresh_sample(self) -> bool:
        """Whether the edge of the window that just closed is this one's, too."""
        newest_ns = self._samples[-1].mono_ns if self._samples else 0
        return time.monotonic_ns() - newest_ns < _FRESH_NS

    def _read(self, window: Window, end_ns: int) -> tuple[EnergyReading, ...] | Missing:
        if isinstance(self.meter, Missing):
            return self.meter
        return read_window(
            self.meter,
            self._samples[self._first_of(window.start_ns) :],
            start_ns=window.start_ns,
            end_ns=end_ns,
            max_gap_s=self._max_gap_s,
            flags=(*self._flags, *self._flags_of(window)),
        )

    def _flags_of(self, window: Window) -> Iterator[str]:
        """What happened to the clocks and to the sampler since the window's begin."""
        yield from clock_flags(window.start_clocks, self._clocks())
        if self._sampler and (self._sampler.restarted_ns or 0) > window.start_ns:
            yield "sampler-restarted"

    def _first_of(self, start_ns: int) -> int:
        """Index of the first sample that a window of that begin looks at."""
        rails = self.meter.rails if isinstance(self.meter, MeterInfo) else ()
        late_s = max((rail.update_s for rail in rails if rail.kind == "power"), default=0.0)
        context_s = max(self._max_gap_s, _CONTEXT_UPDATES * late_s)
        first_ns = start_ns - int(context_s * 1e9)
        return bisect_left(self._samples, first_ns, key=lambda sample: sample.mono_ns)

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


def _idle_power(record: WindowRecord) -> tuple[IdlePower, ...] | Missing:
    if isinstance(record.measured, Missing):
        return record.measured
    return tuple(
        IdlePower(
            power_w=reading.energy_j / (reading.coverage * reading.duration_s),
            uncertainty_w=reading.uncertainty_j / (reading.coverage * reading.duration_s),
            rail=reading.rail,
            boundary=reading.boundary,
            meter=reading.meter,
        )
        for reading in record.measured
    )


def _cpu_s() -> float:
    """CPU time of this process with all its threads, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
