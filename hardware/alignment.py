"""Where a meter's own clock stands, by a pattern of load that it must have seen.

A meter that logs by itself knows nothing of CLOCK_MONOTONIC. While it logs, `signature` burns all
cores a few times and notes when; `align` finds the burns again in the log. The offset makes
`start_mono_ns` of the meter `csv-replay`. Where nobody burnt anything, `align_work` takes the work
itself for the pattern, and refuses one that fits at several places.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.errors import MeterError
from hardware.meters.csv_replay import PowerTrace

__all__ = ["Alignment", "align", "align_work", "drift_note", "signature"]

_CHANCE = 1e-3  # ours: that noise alone is taken for a signature
_COARSE, _FINE = 2, 40  # steps of the search per sample
_BLOCK = bytes(1 << 20)  # hashing it keeps a core busy for a millisecond without the interpreter


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How a trace's clock maps onto CLOCK_MONOTONIC: mono_s = t_s + offset_s.

    Attributes:
        offset_s: in s.
        uncertainty_s: half-width of the interval in which it lies; half a sample at best.
        correlation: of power and signature.
        at_mono_s: middle of the signature, where the offset holds.
    """

    offset_s: float
    uncertainty_s: float
    correlation: float
    at_mono_s: float

    def start_mono_ns(self, trace: PowerTrace) -> int:
        """Instant of the trace's first sample, as `csv-replay` wants it."""
        return round((float(trace.t_s[0]) + self.offset_s) * 1e9)


def signature(
    *,
    n_burns: int = 3,
    burn_s: float = 1.0,
    pause_s: float = 1.0,
    now_ns: Callable[[], int] = time.monotonic_ns,
) -> tuple[int, ...]:
    """Burn all cores that this process may use, with a pause before, between and after.

    Args:
        n_burns: how often.
        burn_s: how long each; for a meter that shows means, at least twice its period.
        pause_s: how long nothing is done.
        now_ns: the clock.

    Returns:
        Begin and end of every burn on CLOCK_MONOTONIC, in ns.
    """
    instants = []
    time.sleep(pause_s)
    for _ in range(n_burns):
        begin_ns = now_ns()
        _burn(begin_ns + round(burn_s * 1e9), now_ns)
        instants += [begin_ns, now_ns()]
        time.sleep(pause_s)
    return tuple(instants)


def align(trace: PowerTrace, instants: Sequence[int]) -> Alignment:
    """Find a signature in a trace by cross-correlation.

    Several offsets fit equally well, since a sample does not say when between its neighbours the
    power jumped: the middle of them is taken.

    Args:
        trace: what the meter logged; its rails are added.
        instants: what `signature` returned.

    Raises:
        MeterError: the trace is shorter than the signature, or does not show it.
    """
    if len(instants) < 4 or len(instants) % 2:
        raise MeterError(
            f"a signature of {len(instants)} instants, expected begin and end of at least 2 burns"
        )
    pause_ns = instants[2] - instants[1]
    edges_ns = (instants[0] - pause_ns, *instants, instants[-1] + pause_ns)
    search = _Search(trace, edges_ns, level=[n % 2 for n in range(len(edges_ns) - 1)])
    if search.lowest_s > search.highest_s:
        raise MeterError(
            f"the trace lasts {search.lasts_s:.3g} s, the signature with its pauses "
            f"{search.pattern_s:.3g} s; record from before the first pause to after the last"
        )
    found = search.best()
    if found.correlation < search.needed:
        raise MeterError(
            f"the trace does not show the signature (best correlation {found.correlation:.2f}, "
            f"needed {search.needed:.2f}); burn longer, at least two of the meter's "
            f"{search.period_s:.3g} s each"
        )
    return found


def align_work(trace: PowerTrace, edges_ns: Sequence[int], load: Sequence[float]) -> Alignment:
    """Find a pattern of work in a trace: its power should rise with the load, somewhere only.

    Rounds are much alike, so that a pattern also fits somewhat where it lies a round beside its
    place. The best place must be better than any other one by as much as chance does not make:
    by the ratio of likelihoods, with one observation per burst and one per pause.

    Args:
        trace: what the meter logged; its rails are added.
        edges_ns: ascending instants on CLOCK_MONOTONIC.
        load: between each and the next, in any unit; at least two bursts of it.

    Raises:
        MeterError: the trace is shorter than the pattern, does not show it, or shows it twice.
    """
    search = _Search(trace, edges_ns, level=load)
    if search.n_bursts < 2:
        raise MeterError(f"{search.n_bursts} burst of work is no pattern")
    if search.lowest_s > search.highest_s:
        raise MeterError(
            f"the trace lasts {search.lasts_s:.3g} s, the work {search.pattern_s:.3g} s; "
            "it does not hold all of it"
        )
    found = search.best()
    if found.correlation < search.needed:
        raise MeterError(
            f"the trace does not show the work (best correlation {found.correlation:.2f}, needed "
            f"{search.needed:.2f})"
        )
    rival = search.best_beside(found)
    gain = math.log((1 - max(rival, 0.0) ** 2) / max(1 - found.correlation**2, 1e-12))
    if search.n_bursts * gain < math.log(2 * search.n_bursts / _CHANCE):
        raise MeterError(
            f"the trace shows the work at several places (correlation {found.correlation:.2f}, and "
            f"{rival:.2f} elsewhere)"
        )
    return found


def drift_note(first: Alignment, last: Alignment) -> str:
    """What two signatures, at the begin and the end of a trace, say of its clock; "" if nothing."""
    drift_s = last.offset_s - first.offset_s
    apart_s = last.at_mono_s - first.at_mono_s
    if abs(drift_s) <= first.uncertainty_s + last.uncertainty_s:
        return ""
    return (
        f"the meter's clock drifts: {drift_s:+.3f} s in {apart_s:.0f} s "
        f"({1e6 * drift_s / apart_s:+.0f} ppm); align each part of the trace by its own signature"
    )


class _Search:
    """Correlations of a trace's power with a pattern of levels, at every offset that fits.

    Attributes:
        lasts_s: of the trace.
        pattern_s: of the pattern.
        period_s: between samples.
        lowest_s: least offset at which the trace holds all of the pattern.
        highest_s: greatest one; below `lowest_s` there is none.
        n_bursts: stretches above the pattern's mean, as samples so far apart see them.
        needed: correlation above what noise alone reaches.
    """

    def __init__(
        self, trace: PowerTrace, edges_ns: Sequence[int], *, level: Sequence[float]
    ) -> None:
        self._t_s, self._power_w = trace.t_s, np.sum(list(trace.power_w.values()), axis=0)
        self._middle_s = (edges_ns[0] + edges_ns[-1]) / 2 * 1e-9
        # Small numbers, for the precision.
        self._edges_s = np.asarray(edges_ns, dtype=np.float64) * 1e-9 - self._middle_s
        self._level = np.asarray(level, dtype=np.float64)
        self.lasts_s = float(self._t_s[-1] - self._t_s[0])
        self.pattern_s = float(self._edges_s[-1] - self._edges_s[0])
        self.period_s = float(np.median(np.diff(self._t_s)))
        self.lowest_s = float(self._edges_s[-1] - self._t_s[-1])
        self.highest_s = float(self._edges_s[0] - self._t_s[0])
        seen = self._level_at(np.arange(self._edges_s[0], self._edges_s[-1], self.period_s))
        is_high = seen > seen.mean()
        self.n_bursts = int(np.count_nonzero(np.diff(is_high.astype(int), prepend=0) > 0))
        self._burst_s = np.count_nonzero(is_high) * self.period_s / max(self.n_bursts, 1)
        step_s = self.period_s / _COARSE
        self._coarse_s = np.arange(self.lowest_s, self.highest_s + step_s, step_s)
        self._found = np.array([self._correlation(offset_s) for offset_s in self._coarse_s])
        n_offsets = len(self._coarse_s) / _COARSE
        self.needed = _needed_correlation(self.pattern_s / self.period_s, n_offsets)

    def best(self) -> Alignment:
        """The middle of the offsets that fit best."""
        near_s = self._coarse_s[int(np.argmax(self._found))]
        fine_s = near_s + np.arange(-_FINE, _FINE + 1) * (self.period_s / _FINE)
        found = np.array([self._correlation(offset_s) for offset_s in fine_s])
        best = float(found.max())
        (plateau,) = np.nonzero(found > best - 1e-9)
        low_s, high_s = float(fine_s[plateau[0]]), float(fine_s[plateau[-1]])
        return Alignment(
            offset_s=(low_s + high_s) / 2 + self._middle_s,
            uncertainty_s=max(self.period_s, high_s - low_s) / 2 + self.period_s / _FINE,
            correlation=best,
            at_mono_s=self._middle_s,
        )

    def best_beside(self, found: Alignment) -> float:
        """The best correlation more than half a burst away, where bursts fall beside bursts."""
        beside_s = np.abs(self._coarse_s + self._middle_s - found.offset_s)
        return float(np.max(self._found[beside_s > self._burst_s / 2], initial=-1.0))

    def _correlation(self, offset_s: float) -> float:
        first_s, last_s = self._edges_s[0] - offset_s, self._edges_s[-1] - offset_s
        begin, end = np.searchsorted(self._t_s, [first_s, last_s])
        level = self._level_at(self._t_s[begin:end] + offset_s)
        return _pearson(level, self._power_w[begin:end])

    def _level_at(self, t_s: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self._edges_s, t_s, side="right") - 1
        level: np.ndarray = self._level[np.clip(place, 0, len(self._level) - 1)]
        return level


def _burn(until_ns: int, now_ns: Callable[[], int]) -> None:
    def work() -> None:
        while now_ns() < until_ns:
            hashlib.sha256(_BLOCK)

    threads = [threading.Thread(target=work) for _ in os.sched_getaffinity(0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if not len(x):
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / scale if scale > 0 else 0.0


def _needed_correlation(n_samples: float, n_offsets: float) -> float:
    """Above what noise reaches at any of so many offsets, by Fisher's transformation."""
    z = math.sqrt(2 * math.log(max(n_offsets, 1.0) / _CHANCE))
    return math.tanh(z / math.sqrt(max(n_samples - 3, 1.0)))
