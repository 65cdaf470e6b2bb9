"""Joules against what they bought: rounds, samples, points of accuracy, leaked units.

Every ratio carries an interval whose ends divide opposite ends of the two 95 % intervals. That is
wider than a propagated standard error, and holds whatever their correlation. The kind of the
joules (measured or modelled) goes with every figure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedcore.types import Missing
from testbed.costs import MeanEnergy, best_energy
from testbed.findings import Findings, margin
from testbed.results import ArmResults
from testbed.statistics import Estimate

__all__ = ["UNITS", "Contest", "Price", "contests", "front", "prices"]

Verdict = Literal["less", "more", "no difference"]

UNITS = ("client-round", "round", "sample", "point of accuracy", "dB leaked")

_LEAK = "psnr"
"""The metric whose margin over the better baseline counts as leaked."""

_Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Price:
    """Joules for one unit of something.

    Attributes:
        unit: one of `UNITS`.
        kind: what the joules are.
        low_j: lower end of the interval.
        high_j: upper end; infinite where the unit may be 0.
    """

    unit: str
    kind: Literal["measured", "modelled"]
    value_j: float
    low_j: float
    high_j: float
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Two arms on the axes energy, leakage and inaccuracy: less is better on each.

    Attributes:
        verdicts: of the first arm beside the second, by axis; Missing where one has no value.
    """

    first: str
    second: str
    verdicts: Mapping[str, Verdict | Missing]

    @property
    def winner(self) -> str:
        """The arm that is better somewhere and nowhere worse beyond its interval, or ""."""
        found = [verdict for verdict in self.verdicts.values() if not isinstance(verdict, Missing)]
        if "less" in found and "more" not in found:
            return self.first
        if "more" in found and "less" not in found:
            return self.second
        return ""


def prices(arm: ArmResults) -> dict[str, Price | Missing]:
    """What the arm's joules bought, by unit."""
    energy = best_energy(list(arm.costs.values()))
    per_update = energy if isinstance(energy, Missing) else _price("client-round", energy, 1.0)
    return {
        "client-round": per_update,
        "round": _per_round(arm, energy),
        "sample": _per_sample(arm, energy),
        "point of accuracy": _per_point(arm, energy),
        "dB leaked": _per_leak(arm, energy),
    }


def contests(arms: Sequence[ArmResults]) -> list[Contest]:
    """Every pair of arms; overlapping intervals are no difference."""
    return [
        Contest(
            first=a.arm.name,
            second=b.arm.name,
            verdicts={
                "energy": _energies(a, b),
                "leakage": _verdict(_leaked(a), _leaked(b)),
                "inaccuracy": _verdict(_inaccuracy(a), _inaccuracy(b)),
            },
        )
        for a, b in itertools.combinations(arms, 2)
    ]


def front(arms: Sequence[ArmResults]) -> list[str]:
    """The arms that no other one dominates: better on an axis and on none worse beyond chance."""
    beaten = {c.second if c.winner == c.first else c.first for c in contests(arms) if c.winner}
    return [arm.arm.name for arm in arms if arm.arm.name not in beaten]


def _price(
    unit: str, energy: MeanEnergy, units: float, *, low: float = 0, high: float = 0
) -> Price:
    """Divide; `low` and `high` are the ends of the units' interval, where they have one."""
    low, high = low or units, high or units
    return Price(
        unit=unit,
        kind=energy.kind,
        value_j=energy.value_j / units,
        low_j=energy.low_j / high,
        high_j=energy.high_j / low if low > 0 else math.inf,
        flags=energy.marks,
    )


def _per_round(arm: ArmResults, energy: MeanEnergy | Missing) -> Price | Missing:
    """All clients of a round; where they share one meter, its joules cannot be added."""
    if isinstance(energy, Missing):
        return energy
    if any(flag.startswith("shared(") for flag in energy.flags):
        return Missing(why="the clients share one meter, whose readings are never added")
    if unknown := _without(arm, energy.kind):
        why = (
            f"no {energy.kind} energy of {', '.join(unknown)}, and no other client's stands for it"
        )
        return Missing(why=why)
    n_rounds = len({ticket.round for ticket in arm.costs})
    return _price("round", energy, n_rounds / len(arm.costs))


def _without(arm: ArmResults, kind: Literal["measured", "modelled"]) -> list[str]:
    """Clients that have no such energy in any round."""
    known = {t.client_id for t, c in arm.costs.items() if not isinstance(getattr(c, kind), Missing)}
    return sorted({ticket.client_id for ticket in arm.costs} - known)


def _per_sample(arm: ArmResults, energy: MeanEnergy | Missing) -> Price | Missing:
    """Examples as often as they were trained on: local steps times the batch."""
    if isinstance(energy, Missing):
        return energy
    training = arm.arm.training
    return _price("sample", energy, training.batch_size * training.local_steps)


def _per_point(arm: ArmResults, energy: MeanEnergy | Missing) -> Price | Missing:
    """All client-rounds so far, over the percentage points above chance that they led to."""
    if isinstance(energy, Missing):
        return energy
    if not arm.accuracies:
        return Missing(why="accuracy was not evaluated")
    share, chance = arm.accuracies[-1].share, 1 / arm.arm.model.n_classes
    if isinstance(share, Missing):
        return share
    if share.low <= chance:
        return Missing(why="the accuracy is not clearly above chance")
    gained, low, high = (
        100 * (value - chance) / len(arm.costs)
        for value in (share.n_yes / share.n, share.low, share.high)
    )
    return _price("point of accuracy", energy, gained, low=low, high=high)


def _per_leak(arm: ArmResults, energy: MeanEnergy | Missing) -> Price | Missing:
    """One client-round, over the dB by which its attacker beats the better baseline."""
    if isinstance(energy, Missing):
        return energy
    leaked = _leak(arm)
    if isinstance(leaked, Missing):
        return leaked
    if not leaked.is_above_zero:
        return Missing(why="no leak beyond the baselines is shown")
    return _price("dB leaked", energy, leaked.value, low=leaked.low, high=leaked.high)


def _leak(arm: ArmResults) -> Estimate | Missing:
    found = arm.findings
    return margin(found.summary(_LEAK)) if isinstance(found, Findings) else found


def _energies(first: ArmResults, second: ArmResults) -> Verdict | Missing:
    """Joules of two kinds, or of two sources, are not compared."""
    a, b = (best_energy(list(arm.costs.values())) for arm in (first, second))
    if isinstance(a, Missing):
        return a
    if isinstance(b, Missing):
        return b
    if (a.kind, a.source) != (b.kind, b.source):
        return Missing(why=f"{a.kind} by {a.source} and {b.kind} by {b.source} do not compare")
    return _verdict((a.low_j, a.high_j), (b.low_j, b.high_j))


def _leaked(arm: ArmResults) -> _Interval | Missing:
    leaked = _leak(arm)
    if isinstance(leaked, Missing):
        return leaked
    if isinstance(leaked.half_width, Missing):
        return leaked.half_width
    return leaked.low, leaked.high


def _inaccuracy(arm: ArmResults) -> _Interval | Missing:
    if not arm.accuracies:
        return Missing(why="accuracy was not evaluated")
    share = arm.accuracies[-1].share
    return share if isinstance(share, Missing) else (1 - share.high, 1 - share.low)


def _verdict(first: _Interval | Missing, second: _Interval | Missing) -> Verdict | Missing:
    if isinstance(first, Missing):
        return first
    if isinstance(second, Missing):
        return second
    if first[1] < second[0]:
        return "less"
    return "more" if second[1] < first[0] else "no difference"
