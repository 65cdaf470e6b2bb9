"""Where a meter's own clock stands, by a pattern of load that it must have seen.

A meter that logs by itself knows nothing of CLOCK_MONOTONIC. While it logs, `signature` burns all
cores a few times and notes when; `align` finds the burns again in the log. The offset makes
`start_mono_ns` of the meter `csv-replay`.
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

__all__ = ["Alignment", "align", "drift_note", "signature"]

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
    edges_s = np.asarray(instants, dtype=np.float64) * 1e-9
    middle_s = float(edges_s[0] + edges_s[-1]) / 2
    edges_s = edges_s - middle_s  # small numbers, for the precision
    pause_s = float(edges_s[2] - edges_s[1])
    first_s, last_s = edges_s[0] - pause_s, edges_s[-1] + pause_s
    t_s, power_w = trace.t_s, np.sum(list(trace.power_w.values()), axis=0)
    period_s = float(np.median(np.diff(t_s)))
    lowest_s, highest_s = last_s - t_s[-1], first_s - t_s[0]
    if lowest_s > highest_s:
        raise MeterError(
            f"the trace lasts {t_s[-1] - t_s[0]:.3g} s, the signature with its pauses "
            f"{last_s - first_s:.3g} s; record from before the first pause to after the last"
        )

    def correlation(offset_s: float) -> float:
        begin, end = np.searchsorted(t_s, [first_s - offset_s, last_s - offset_s])
        is_burning = np.searchsorted(edges_s, t_s[begin:end] + offset_s, side="right") % 2
        return _pearson(is_burning, power_w[begin:end])

    coarse_s = np.arange(lowest_s, highest_s + period_s / _COARSE, period_s / _COARSE)
    near_s = coarse_s[int(np.argmax([correlation(offset_s) for offset_s in coarse_s]))]
    fine_s = near_s + np.arange(-_FINE, _FINE + 1) * (period_s / _FINE)
    found = np.array([correlation(offset_s) for offset_s in fine_s])
    best = float(found.max())
    (plateau,) = np.nonzero(found > best - 1e-9)
    needed = _needed_correlation((last_s - first_s) / period_s, len(coarse_s) / _COARSE)
    if best < needed:
        raise MeterError(
            f"the trace does not show the signature (best correlation {best:.2f}, needed "
            f"{needed:.2f}); burn longer, at least two of the meter's {period_s:.3g} s each"
        )
    low_s, high_s = float(fine_s[plateau[0]]), float(fine_s[plateau[-1]])
    return Alignment(
        offset_s=(low_s + high_s) / 2 + middle_s,
        uncertainty_s=max(period_s, high_s - low_s) / 2 + period_s / _FINE,
        correlation=best,
        at_mono_s=middle_s,
    )


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
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / scale if scale > 0 else 0.0


def _needed_correlation(n_samples: float, n_offsets: float) -> float:
    """Above what noise reaches at any of so many offsets, by Fisher's transformation."""
    z = math.sqrt(2 * math.log(max(n_offsets, 1.0) / _CHANCE))
    return math.tanh(z / math.sqrt(max(n_samples - 3, 1.0)))
