"""Intervals: Student's t over victims, Welch's between groups, Wilson's for a share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedcore.types import Missing

__all__ = [
    "Estimate",
    "Share",
    "clustered_mean",
    "mean_with_interval",
    "share_of_all",
    "share_with_interval",
    "welch_difference",
]

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with the half-width of its 95 % interval.

    Attributes:
        value: the mean.
        half_width: or why there is no interval (a single value has none, nor have equal ones).
        n: values that went in.
    """

    value: float
    half_width: float | Missing
    n: int

    @property
    def low(self) -> float:
        """Lower end; the mean itself where there is no interval."""
        return self.value - self._reach

    @property
    def high(self) -> float:
        """Upper end; the mean itself where there is no interval."""
        return self.value + self._reach

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval lies above 0. Without an interval nothing is claimed."""
        return not isinstance(self.half_width, Missing) and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval lies below 0. Without an interval nothing is claimed."""
        return not isinstance(self.half_width, Missing) and self.high < 0

    @property
    def _reach(self) -> float:
        return 0.0 if isinstance(self.half_width, Missing) else self.half_width


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of how many, with Wilson's 95 % interval."""

    n_yes: int
    n: int
    low: float
    high: float


def mean_with_interval(values: Sequence[float]) -> Estimate | Missing:
    """The mean of independent values with Student's t-interval.

    For paired comparisons hand in the differences. Equal values (24 of 24 labels right, say) show
    no spread, which does not make their mean certain: they get no interval.
    """
    from scipy.stats import t

    n = len(values)
    if n == 0:
        return Missing(why="no value to average")
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(value=mean, half_width=Missing(why="one value has no interval"), n=1)
    if min(values) == max(values):
        return Estimate(value=mean, half_width=_no_spread(n), n=n)
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(value=mean, half_width=float(t.ppf((1 + LEVEL) / 2, n - 1)) * error, n=n)


def clustered_mean(values: Sequence[float], *, clusters: Sequence[str]) -> Estimate | Missing:
    """The mean of the clusters' means, with Student's t-interval over clusters.

    For values that are alike within a cluster (the victims of one client). `n` counts clusters.

    Args:
        values: in any order.
        clusters: the cluster of each.
    """
    members: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        members.setdefault(cluster, []).append(value)
    return mean_with_interval([float(np.mean(own)) for own in members.values()])


def welch_difference(first: Sequence[float], second: Sequence[float]) -> Estimate | Missing:
    """Mean of the first minus mean of the second, unpaired, variances unequal (Welch 1947)."""
    from scipy.stats import t

    n_first, n_second = len(first), len(second)
    if n_first < 2 or n_second < 2:
        return Missing(why=f"{n_first} against {n_second} values: too few for an interval")
    square_errors = np.var(first, ddof=1) / n_first, np.var(second, ddof=1) / n_second
    total = sum(square_errors)
    difference = float(np.mean(first) - np.mean(second))
    if total == 0:
        n = n_first + n_second
        return Estimate(value=difference, half_width=_no_spread(n), n=n)
    freedom = total**2 / (
        square_errors[0] ** 2 / (n_first - 1) + square_errors[1] ** 2 / (n_second - 1)
    )
    reach = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(total)
    return Estimate(value=difference, half_width=reach, n=n_first + n_second)


def share_with_interval(n_yes: int, n: int) -> Share | Missing:
    """A share with Wilson's score interval (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    from scipy.stats import norm

    if n == 0:
        return Missing(why="nothing to take a share of")
    z = float(norm.ppf((1 + LEVEL) / 2))
    share = n_yes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Share(n_yes=n_yes, n=n, low=max(0.0, centre - reach), high=min(1.0, centre + reach))


def share_of_all(counts: Sequence[tuple[int, int]]) -> Share | Missing:
    """Sum of correct over sum of examples; clients report these numbers, so they may be wrong."""
    for n_correct, n_examples in counts:
        if not 0 <= n_correct <= n_examples:
            return Missing(why=f"a client reported {n_correct} of {n_examples} correct")
    return share_with_interval(sum(right for right, _ in counts), sum(n for _, n in counts))


def _no_spread(n: int) -> Missing:
    return Missing(why=f"{n} values without spread have no interval")
