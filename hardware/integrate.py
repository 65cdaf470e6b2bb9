"""From samples to the energy of a window: pure arithmetic, no extrapolation, an honest interval.

A window is cut by the samples into pieces; a piece that cannot be trusted is left out and shows
in the coverage, so that the energy is that of the covered part alone.

The uncertainty is k = 2 (95 %) and combines, as a root of squares:

* gain and offset: the meter's scale factor, and its constant error (power);
* quantisation: rounding to the meter's step;
* edges (counters): the age of a counter's value, and a window that begins between two samples;
* edges (power): a value that is up to u old shows P(t - a), 0 <= a <= u, or a mean of such. The
  samples then give the energy of a window that lies a earlier: a too much before the begin, a too
  little before the end, which no sample shows any more. Where the load in that unseen end was
  among what the window's samples show, the error is at most u (max - min). A mean over u also
  hides swings that are faster than u: those of a square wave of period u and amplitude A, which
  both ends cut at a random phase, add a standard deviation of A u / sqrt(24). How strong they
  are, nobody sees; power that never falls below 0 leaves A no more than its mean. A window
  shorter than u may not have been seen at all: the rail drew something between 0 and its most;
* holding (power): samples no further apart than two updates see one value several times, or an
  instant in the place of a whole update. What they do not show is then told by how the value
  changes from one update to the next. Independent values of variance s^2 change by 2 s^2 in the
  mean of squares, and each stands for u of the window: sqrt(sum c_i^2 u^2 / 2). This takes the
  place of the sampling term below, and of the edges where it is the larger. Samples from before
  the window tell as well. Bursts that no two instants happened to show are in no interval;
* sampling (power): what happened between the samples. Leaving out sample i changes the energy by
  its triangle d_i, and the two half-split integrals differ by the alternating sum of these. One
  difference may vanish by luck (|E_odd - E_even| / 2 held the truth in 60 % of simulated traces);
  the root of the sum of squares is steady. Where samples are independent (bursts shorter than the
  period), E[d_i^2] is 1.5 times the variance that sample i adds to the energy (a triangle weighs
  its corners 1, -1/2, -1/2); where jumps are resolved it is more. So sqrt(sum d_i^2 / 1.5) is at
  least one standard deviation. It rests on m inner samples, and 2 (1 + 4/m) follows Student's t
  at 95 %.
  Without an inner sample (m = 0) two edges at rest may enclose a burst: all that is known is that
  the power lay between 0 and the most that the rail can draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedcore.errors import MeterError

__all__ = ["WindowEnergy", "integrate_counter", "integrate_power"]

_FEW = 4
_SIX_VALUES = 2.57  # Student's t at 95 %: a short window and what is before it show some six
_STANDSTILL = 100  # updates after which a counter that has not moved is broken
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class WindowEnergy:
    """The energy of the covered part of a window, in the terms of `EnergyReading`."""

    energy_j: float
    uncertainty_j: float
    coverage: float
    n_samples: int
    longest_gap_s: float
    flags: tuple[str, ...]


def integrate_power(
    t_s: np.ndarray,
    power_w: np.ndarray,
    *,
    start_s: float,
    end_s: float,
    max_gap_s: float,
    max_power_w: float,
    resolution_w: float = 0.0,
    update_s: float = 0.0,
    gain_error: float = 0.0,
    offset_error_w: float = 0.0,
) -> WindowEnergy:
    """Trapezoids under a sampled power, inside the window.

    Args:
        t_s: ascending sample times [sample].
        power_w: instantaneous power [sample]; NaN where there was none.
        start_s: begin of the window on the same clock.
        end_s: its end.
        max_gap_s: samples further apart do not say what happened between them.
        max_power_w: more than the rail can draw.
        resolution_w: the meter's step.
        update_s: how old a value can be, or how long a time it is the mean of.
        gain_error: half-width of the 95 % interval of its scale factor, relative.
        offset_error_w: half-width of the 95 % interval of its constant error.

    Raises:
        MeterError: no part of the window is covered.
    """
    pieces = _Pieces.of(t_s, power_w, start_s, end_s)
    kept = pieces.gap_s <= max_gap_s
    coverage = pieces.coverage(kept)
    slope = (pieces.v[:, 1:] - pieces.v[:, :1]) / pieces.gap_s[:, np.newaxis]
    at_cut = pieces.v[:, :1] + slope * (pieces.cut - pieces.t[:, :1])
    energy_j = float(np.sum((at_cut.mean(axis=1) * pieces.length_s)[kept]))
    # Readings that stay the same are rounded the same way: their errors do not average.
    n_changes = np.count_nonzero(np.diff(pieces.v, axis=1)[kept & pieces.is_inside])
    rounding_w = 2 * resolution_w / math.sqrt(12 * (1 + n_changes))
    covered_s = coverage * (end_s - start_s)
    edges_j = update_s * float(np.ptp(pieces.v[pieces.t[:, 1] >= start_s - update_s]))
    between_j: float | None
    if pieces.longest_gap_s <= 2 * update_s:
        between_j = 0.0
        edges_j = max(edges_j, _holding_j(pieces, kept, covered_s, update_s=update_s))
    else:
        between_j = _sampling_j(pieces, at_cut, kept & pieces.is_inside)
    if between_j is None or end_s - start_s < update_s:
        between_j = max(abs(energy_j), max_power_w * covered_s - energy_j)
    return WindowEnergy(
        energy_j=energy_j,
        uncertainty_j=math.hypot(
            gain_error * energy_j,
            offset_error_w * covered_s,
            rounding_w * covered_s,
            between_j,
            edges_j,
            2 * update_s * abs(energy_j / covered_s) / math.sqrt(24),
        ),
        coverage=coverage,
        n_samples=pieces.n_samples,
        longest_gap_s=pieces.longest_gap_s,
        flags=_raised(
            {
                "edge": pieces.is_open,
                "few-samples": pieces.n_samples - 2 < _FEW,
                "gap": pieces.longest_gap_s > max_gap_s,
            }
        ),
    )


def integrate_counter(
    t_s: np.ndarray,
    counter_j: np.ndarray,
    *,
    start_s: float,
    end_s: float,
    max_gap_s: float,
    max_power_w: float,
    wraps_at_j: float | None = None,
    resolution_j: float = 0.0,
    update_s: float = 0.0,
    gain_error: float = 0.0,
) -> WindowEnergy:
    """Differences of an energy counter, inside the window.

    A gap inside the window costs nothing, since the counter went on; one over an edge of the
    window does, since nobody knows which part of its energy lies inside.

    Args:
        t_s: ascending sample times [sample].
        counter_j: the counter [sample]; NaN where there was none.
        start_s: begin of the window on the same clock.
        end_s: its end.
        max_gap_s: samples further apart do not say when between them the energy went.
        max_power_w: more than the rail can draw; a difference above it is a reset, not energy.
        wraps_at_j: where the counter starts again at 0; None where that is not known, and then a
            counter that falls is a lost piece.
        resolution_j: the counter's step.
        update_s: how old its value can be.
        gain_error: half-width of the 95 % interval of its scale factor, relative.

    Raises:
        MeterError: no part of the window is covered, or the counter stood still.
    """
    pieces = _Pieces.of(t_s, counter_j, start_s, end_s)
    used_j = pieces.v[:, 1] - pieces.v[:, 0]
    has_fallen = used_j < 0
    turn_j = math.inf if wraps_at_j is None else wraps_at_j
    used_j = np.where(has_fallen, used_j + turn_j, used_j)
    most_j = max_power_w * (pieces.gap_s + update_s) + resolution_j
    is_reset = used_j > most_j
    is_ambiguous = used_j + turn_j <= most_j  # it may have gone round once more, unseen
    is_sound = ~is_reset & ~is_ambiguous
    used_j = np.where(is_sound, used_j, 0.0)
    is_whole = pieces.length_s == pieces.gap_s
    kept = is_sound & (is_whole | (pieces.gap_s <= max_gap_s))
    coverage = pieces.coverage(kept)
    share = pieces.length_s / pieces.gap_s
    energy_j = float(np.sum((used_j * share)[kept]))
    # From all pieces: a window shorter than an update may see no step, yet it has a power.
    seen_j, seen_s = float(np.sum(used_j[is_sound])), float(np.sum(pieces.gap_s[is_sound]))
    still_s = seen_s if seen_j == 0 else (end_s - start_s if energy_j == 0 else 0.0)
    if 0 < _STANDSTILL * update_s < still_s:
        raise MeterError(f"the counter stood still for {still_s:.3g} s")
    age_j = seen_j / seen_s * update_s  # two ages between 0 and the update differ by it at most
    rounding_j = 2 * resolution_j / math.sqrt(6)
    edges_j = 2 * float(np.linalg.norm((used_j * share * (1 - share))[kept]))
    inside = pieces.is_inside
    return WindowEnergy(
        energy_j=energy_j,
        uncertainty_j=math.hypot(gain_error * energy_j, rounding_j, age_j, edges_j),
        coverage=coverage,
        n_samples=pieces.n_samples,
        longest_gap_s=pieces.longest_gap_s,
        flags=_raised(
            {
                "counter-reset": bool(np.any(is_reset & inside)),
                "double-wrap": bool(np.any(is_ambiguous & inside)),
                "edge": pieces.is_open,
                "gap": pieces.longest_gap_s > max_gap_s,
                "wrapped": bool(np.any(has_fallen & kept & inside)),
            }
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Pieces:
    """What lies between neighbouring samples, and the part of it inside the window.

    Attributes:
        t: sample times around each piece, in s, [piece, 2].
        v: their values [piece, 2].
        cut: the part inside the window, in s, [piece, 2]; of no length for a piece outside.
        duration_s: of the window.
        is_open: whether the window begins before the first sample or ends after the last.
    """

    t: np.ndarray
    v: np.ndarray
    cut: np.ndarray
    duration_s: float
    is_open: bool

    @classmethod
    def of(cls, t_s: np.ndarray, values: np.ndarray, start_s: float, end_s: float) -> _Pieces:
        if not end_s > start_s:
            raise MeterError(f"the window [{start_s}, {end_s}] s has no length")
        is_read = np.isfinite(values) & (np.diff(t_s, prepend=-math.inf) > 0)
        t_s, values = t_s[is_read], values[is_read]
        if len(t_s) < 2:
            raise MeterError(f"{len(t_s)} samples do not cover the window")
        t, v = (np.stack([a[:-1], a[1:]], axis=1) for a in (t_s, values))
        is_open = bool(t_s[0] > start_s or t_s[-1] < end_s)
        cut = np.clip(t, start_s, end_s)
        return cls(t=t, v=v, cut=cut, duration_s=end_s - start_s, is_open=is_open)

    @property
    def gap_s(self) -> np.ndarray:
        gap_s: np.ndarray = self.t[:, 1] - self.t[:, 0]
        return gap_s

    @property
    def length_s(self) -> np.ndarray:
        length_s: np.ndarray = self.cut[:, 1] - self.cut[:, 0]
        return length_s

    @property
    def is_inside(self) -> np.ndarray:
        return self.length_s > 0

    @property
    def n_samples(self) -> int:
        return int(np.count_nonzero(self.is_inside)) + 1

    @property
    def longest_gap_s(self) -> float:
        return float(self.gap_s[self.is_inside].max())

    def coverage(self, kept: np.ndarray) -> float:
        """Share of the window in the kept pieces.

        Raises:
            MeterError: there is none.
        """
        share = float(np.sum(self.length_s[kept])) / self.duration_s
        if share <= 0:
            raise MeterError("no trustworthy samples cover any part of the window")
        return 1.0 if share > 1 - _ROUNDING else share


def _sampling_j(pieces: _Pieces, at_cut: np.ndarray, kept: np.ndarray) -> float | None:
    """Half-width (k = 2) by what happened between the samples; None without an inner sample.

    See the head of this file.
    """
    both = kept[:-1] & kept[1:]
    before_s, after_s = pieces.length_s[:-1][both], pieces.length_s[1:][both]
    rise, fall = (at_cut[:, 1] - at_cut[:, 0])[:-1][both], (at_cut[:, 0] - at_cut[:, 1])[1:][both]
    triangles_j = (rise * after_s + fall * before_s) / 2
    m = len(triangles_j)
    if m == 0:
        return None
    return 2 * (1 + 4 / m) * float(np.linalg.norm(triangles_j)) / math.sqrt(1.5)


def _holding_j(pieces: _Pieces, kept: np.ndarray, covered_s: float, *, update_s: float) -> float:
    """Half-width (95 %) by what a held value does not show; see the head of this file."""
    gap_s = pieces.gap_s[kept]
    changes_j = np.diff(pieces.v, axis=1)[kept, 0] * np.maximum(gap_s, update_s)
    span_s = float(np.sum(gap_s))
    per_second = float(np.sum(changes_j**2)) / 2 / span_s
    return _SIX_VALUES * math.sqrt(per_second * covered_s)


def _raised(flags: Mapping[str, bool]) -> tuple[str, ...]:
    return tuple(sorted(name for name, is_raised in flags.items() if is_raised))
