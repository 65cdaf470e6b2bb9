"""How well energy is known: our sampling beside codecarbon's and Zeus's, on the same traces.

The reference trace draws 7 W for 0.35 s of each 0.8 s and else 3 W; a window lasts 6 s. It is
replayed to real samplers beside a busy Python loop, and simulated. The peers' schemes are as
their sources have them: codecarbon 3.3 takes one reading per 15 s interval for the Raspberry Pi 5,
else one per second, each times its interval; Zeus 0.16 polls at 10 Hz, counts each reading for the
whole interval after it, and answers a window from the poll before each of its edges.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from fedcore.energy import EnergyReading
from fedcore.plan import Choice
from fedcore.seeds import stream
from fedcore.types import Missing
from hardware.integrate import integrate_counter, integrate_power
from hardware.window import Recorder, Window, measured

__all__ = ["LATE", "late", "rows"]

PERIOD_S, BUSY_S, LOW_W, HIGH_W = 0.8, 0.35, 3.0, 7.0
WINDOW_S = 6.0
RAMP_S = 1e-6  # of the file's edges; the replay is linear between its points
N_SIMULATED = 2000
N_RANDOM = 500
LATE_WINDOWS_S = (1, 3, 5, 10)


def rows(*, n_windows: int = 20, n_samplers: int = 3) -> Iterator[str]:
    """The tables, one line at a time.

    Args:
        n_windows: of 6 s each, one after the other, of every sampler.
        n_samplers: that replay the trace at the same time, each with its own jitter.
    """
    yield "bursty reference trace, window of 6 s: error of the energy"
    yield f"{'scheme':<44}{'RMS %':>8}{'worst %':>9}{'n':>6}{'inside U':>10}{'median U %':>12}"
    yield from _real(n_windows, n_samplers)
    yield _row("the same, simulated", *_simulated(_ours))
    for name, scheme in PEERS.items():
        yield _row(name, *_simulated(scheme))
    yield ""
    yield "500 random traces: truth inside the stated interval, median of it over the RMS error"
    for name, one in (("power, 10 Hz", _random_power), ("counter, 1 ms", _random_counter)):
        yield f"{name:<44}{_honesty([one(stream(0, name, i)) for i in range(N_RANDOM)])}"
    yield ""
    yield "values of the last second: truth inside the interval, median of it over the RMS error"
    yield f"{'window':<36}" + "".join(f"{length_s:>9} s     " for length_s in LATE_WINDOWS_S)
    yield from _late_rows()
    yield ""
    yield "the sampler's own CPU time, share of one core"
    for rate_hz in (10, 350):
        yield f"{rate_hz:>4} Hz {100 * _cpu_share(rate_hz):>38.2f}%"


def true_j(start_s: float, end_s: float) -> float:
    """The reference trace's energy."""

    def since_begin_j(t_s: float) -> float:
        n, rest_s = divmod(t_s, PERIOD_S)
        busy_s = n * BUSY_S + min(rest_s, BUSY_S)
        return LOW_W * t_s + (HIGH_W - LOW_W) * busy_s

    return since_begin_j(end_s) - since_begin_j(start_s)


def power_w(t_s: np.ndarray) -> np.ndarray:
    """The reference trace's power."""
    return np.where(t_s % PERIOD_S < BUSY_S, HIGH_W, LOW_W)


def _real(n_windows: int, n_samplers: int) -> Iterator[str]:
    """Real samplers, beside a loop that keeps this interpreter busy."""
    start_ns = time.monotonic_ns()
    windows: list[Window] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        meter = _replay(Path(folder) / "trace.csv", start_ns)
        recorders = [stack.enter_context(Recorder(meter=meter)) for _ in range(n_samplers)]
        stack.enter_context(_busy())
        for _ in range(n_windows):
            with contextlib.ExitStack() as together:
                windows += [together.enter_context(measured(r, "burst")) for r in recorders]
                time.sleep(WINDOW_S)
    found = []
    for window in windows:
        reading = _reading(window)
        start_s = (window.start_ns - start_ns) * 1e-9
        truth_j = true_j(start_s, start_s + reading.duration_s)
        found.append((reading.energy_j / truth_j - 1, reading.uncertainty_j / truth_j))
    errors, stated = np.array(found).T
    yield _row("Leakwatt, 10 Hz, real, beside a busy loop", errors, stated)


def _replay(path: Path, start_ns: int) -> Choice:
    """A meter that shows the reference trace, which began at `start_ns`."""
    corners = (
        (0.0, HIGH_W),
        (BUSY_S, HIGH_W),
        (BUSY_S + RAMP_S, LOW_W),
        (PERIOD_S - RAMP_S, LOW_W),
        (PERIOD_S, HIGH_W),
    )
    path.write_text("t_s,VDD_IN\n" + "".join(f"{t_s!r},{w!r}\n" for t_s, w in corners))
    options = {"path": str(path), "loop": True, "start_mono_ns": start_ns}
    return Choice(name="csv-replay", options=options)


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """Hold the interpreter's lock as a trainer in pure Python does."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


Scheme = Callable[[np.random.Generator, float], tuple[float, float]]


def _simulated(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors and stated uncertainties of windows that begin anywhere in the trace."""
    rng = stream(0, "traces")
    found = []
    for start_s in rng.uniform(100.0, 100.0 + PERIOD_S, N_SIMULATED):
        energy_j, stated_j = scheme(rng, start_s)
        truth_j = true_j(start_s, start_s + WINDOW_S)
        found.append((energy_j / truth_j - 1, stated_j / truth_j))
    errors, stated = np.array(found).T
    return errors, stated


def _ours(rng: np.random.Generator, start_s: float) -> tuple[float, float]:
    edges_s = np.array([start_s, start_s + WINDOW_S])
    at_s = np.sort(np.append(_jittered(rng, start_s - 0.3, edges_s[1]), edges_s))
    seen = integrate_power(
        at_s,
        power_w(at_s),
        start_s=edges_s[0],
        end_s=edges_s[1],
        max_gap_s=0.3,
        max_power_w=HIGH_W,
    )
    return seen.energy_j, seen.uncertainty_j


def _codecarbon(interval_s: float) -> Scheme:
    """One reading times its interval; the last interval ends with the window."""

    def scheme(rng: np.random.Generator, start_s: float) -> tuple[float, float]:
        ends_s = np.append(np.arange(interval_s, WINDOW_S, interval_s), WINDOW_S)
        lengths_s = np.diff(ends_s, prepend=0.0)
        return float(np.sum(power_w(start_s + ends_s) * lengths_s)), np.nan

    return scheme


def _zeus(rng: np.random.Generator, start_s: float) -> tuple[float, float]:
    """Polls at 10 Hz since any time; the window's edges fall back to the polls before them."""
    first_s = start_s - 0.1 * rng.random()
    at_s = first_s + 0.1 * np.arange(round(WINDOW_S / 0.1) + 1)
    n = np.searchsorted(at_s, start_s + WINDOW_S, side="right") - 1
    return float(np.sum(power_w(at_s[:n])) * 0.1), np.nan


PEERS: dict[str, Scheme] = {
    "Zeus's: 10 Hz fixed, right rectangles": _zeus,
    "codecarbon's: 1 Hz": _codecarbon(1.0),
    "codecarbon's: one reading x 15 s": _codecarbon(15.0),
}


def _jittered(
    rng: np.random.Generator, begin_s: float, end_s: float, *, period_s: float = 0.1
) -> np.ndarray:
    """Instants of our sampler, see `hardware.sampler.next_instant_ns`."""
    gaps_s: np.ndarray = period_s * rng.uniform(
        0.5, 1.5, int((end_s - begin_s) / (period_s / 2)) + 1
    )
    at_s: np.ndarray = begin_s + np.cumsum(gaps_s) - gaps_s[0] * rng.random()
    return at_s[at_s < end_s]


def _random_trace(
    rng: np.random.Generator, length_s: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Bursts, steps, a random walk or fast noise, on a grid of 0.2 ms; of 2 to 8 s if not told."""
    t_s = np.arange(0, length_s or rng.uniform(2, 8), 2e-4)
    kind = rng.integers(4)
    if kind == 0:
        turns = t_s / rng.uniform(0.05, 2) + rng.random()
        return t_s, np.where(turns % 1 < rng.uniform(0.1, 0.9), HIGH_W, LOW_W)
    if kind == 1:
        edges_s = np.sort(rng.uniform(0, t_s[-1], rng.integers(1, 15)))
        return t_s, rng.uniform(1, 10, len(edges_s) + 1)[np.searchsorted(edges_s, t_s)]
    if kind == 2:
        steps_w = rng.normal(0, rng.uniform(0.5, 4) * np.sqrt(2e-4), len(t_s))
        return t_s, np.clip(5 + np.cumsum(steps_w), 0.5, 20)
    return t_s, 5 + np.repeat(rng.normal(0, 1, len(t_s) // 20 + 1), 20)[: len(t_s)]


def _honesty(found: Sequence[tuple[float, float]]) -> str:
    """Share of truths inside the stated interval, and its median over the RMS error."""
    errors_j, stated_j = np.array(found).T
    inside = np.mean(np.abs(errors_j) <= stated_j)
    return f"{100 * inside:>7.1f}%{np.median(stated_j) / np.sqrt(np.mean(errors_j**2)):>6.2f}"


def _counted(t_s: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum((w[1:] + w[:-1]) / 2 * np.diff(t_s))])


def _random_power(rng: np.random.Generator) -> tuple[float, float]:
    """Error and stated uncertainty, in J."""
    t_s, w = _random_trace(rng)
    at_s = np.concatenate([[0.0], _jittered(rng, 0.05, t_s[-1]), [t_s[-1]]])
    seen = integrate_power(
        at_s,
        np.interp(at_s, t_s, w),
        start_s=0.0,
        end_s=t_s[-1],
        max_gap_s=0.3,
        max_power_w=20.0,
    )
    return seen.energy_j - _counted(t_s, w)[-1], seen.uncertainty_j


Shown = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
"""What a late sensor shows of a trace (times, W) at some times, its updates at some phase."""


def _running_mean(t_s: np.ndarray, w: np.ndarray, at_s: np.ndarray, phase: float) -> np.ndarray:
    del phase
    return _mean_w(t_s, w, at_s)


def _held_mean(t_s: np.ndarray, w: np.ndarray, at_s: np.ndarray, phase: float) -> np.ndarray:
    return _mean_w(t_s, w, np.floor(at_s + phase) - phase)


def _held_instant(t_s: np.ndarray, w: np.ndarray, at_s: np.ndarray, phase: float) -> np.ndarray:
    return np.asarray(np.interp(np.floor(at_s + phase) - phase, t_s, w))


def _mean_w(t_s: np.ndarray, w: np.ndarray, ends_s: np.ndarray) -> np.ndarray:
    """Over the second before."""
    begin_j, end_j = np.interp([ends_s - 1, ends_s], t_s, _counted(t_s, w))
    return np.asarray(end_j - begin_j)


LATE: dict[str, tuple[Shown, float]] = {
    "mean of the last second, 10 Hz": (_running_mean, 0.1),
    "mean of the second before, held, 1 Hz": (_held_mean, 1.0),
    "instant, held for a second, 1 Hz": (_held_instant, 1.0),
}


def _late_rows() -> Iterator[str]:
    for name in LATE:
        row = f"{name:<38}"
        for length_s in LATE_WINDOWS_S:
            found = late(name, length_s=length_s, n=N_RANDOM)
            row += _honesty(found)
        yield row


def late(name: str, *, length_s: int, n: int) -> list[tuple[float, float]]:
    """Errors and stated uncertainties in J of `n` windows by a late sensor."""
    shown, period_s = LATE[name]
    return [
        _late(stream(0, name, length_s, i), shown, period_s=period_s, length_s=length_s)
        for i in range(n)
    ]


def _late(
    rng: np.random.Generator, shown: Shown, *, period_s: float, length_s: float
) -> tuple[float, float]:
    """Error and stated uncertainty in J of a window after 9 s of a trace."""
    start_s, end_s = 9.5, 9.5 + length_s
    t_s, w = _random_trace(rng, end_s + 0.1)
    sampled_s = _jittered(rng, start_s - 8, end_s, period_s=period_s)
    at_s = np.sort(np.append(sampled_s, [start_s, end_s]))
    seen = integrate_power(
        at_s,
        shown(t_s, w, at_s, rng.random()),
        start_s=start_s,
        end_s=end_s,
        max_gap_s=3 * period_s,
        max_power_w=20.0,
        update_s=1.0,
    )
    begin_j, last_j = np.interp([start_s, end_s], t_s, _counted(t_s, w))
    return seen.energy_j - (last_j - begin_j), seen.uncertainty_j


def _random_counter(rng: np.random.Generator) -> tuple[float, float]:
    """A counter in steps of 61 uJ that advances every millisecond, read as ours are."""
    t_s, w = _random_trace(rng)
    counted_j = _counted(t_s, w)
    start_s, end_s = np.sort(rng.uniform(0.2, t_s[-1], 2))
    edges_s = [start_s - 2e-4, end_s + 2e-4]
    at_s = np.sort(np.append(_jittered(rng, max(0.0, start_s - 0.3), edges_s[1]), edges_s))
    phase = rng.random()
    renewed_s = (np.floor(at_s / 1e-3 + phase) - phase) * 1e-3
    shown_j = np.floor(np.interp(renewed_s, t_s, counted_j) / 61e-6) * 61e-6
    seen = integrate_counter(
        at_s,
        shown_j,
        start_s=start_s,
        end_s=end_s,
        max_gap_s=0.3,
        max_power_w=100.0,
        resolution_j=61e-6,
        update_s=1e-3,
    )
    begin_j, last_j = np.interp([start_s, end_s], t_s, counted_j)
    return seen.energy_j - (last_j - begin_j), seen.uncertainty_j


def _cpu_share(rate_hz: float, *, seconds: float = 10.0) -> float:
    """CPU time of a running sampler's process over the time that passed."""
    with tempfile.TemporaryDirectory() as folder:
        meter = _replay(Path(folder) / "trace.csv", time.monotonic_ns())
        with Recorder(meter=meter, period_s=1 / rate_hz):
            (sampler,) = psutil.Process().children()
            before, begin_s = sampler.cpu_times(), time.monotonic()
            time.sleep(seconds)
            after, end_s = sampler.cpu_times(), time.monotonic()
    used_s = after.user + after.system - before.user - before.system
    return used_s / (end_s - begin_s)


def _reading(window: Window) -> EnergyReading:
    record = window.record
    if record is None or isinstance(record.measured, Missing):
        raise SystemExit(f"a window gave no reading: {record}")
    (reading,) = record.measured
    return reading


def _row(name: str, errors: Sequence[float] | np.ndarray, stated: np.ndarray) -> str:
    errors = np.asarray(errors)
    rms, worst = np.sqrt(np.mean(errors**2)), np.max(np.abs(errors))
    says = "none stated"
    if np.isfinite(stated).all():
        inside = np.mean(np.abs(errors) <= stated)
        says = f"{100 * inside:>9.1f}%{100 * np.median(stated):>12.2f}"
    return f"{name:<44}{100 * rms:>8.2f}{100 * worst:>9.2f}{len(errors):>6}{says:>22}"


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)
