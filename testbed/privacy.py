"""What a run's noise is worth as differential privacy: epsilon at a stated delta.

The bound is for one client's updates, each seen alone, as the tap sees them. Neighbouring data
differ in one example that is there or not ("dp-sgd"), or in all of the client's data ("clip", then
"gaussian"; an update then moves by twice the bound at most). Every round counts in full. What
random batches add (amplification) is left out of a report: it is proven for batches that take each
example by an independent coin (Poisson sampling), and a client of ours cuts a random order into
batches of one size instead. `sampled_epsilon` says what it would be worth. Noise of reproducible
runs comes from the client's secret stream, which is no cryptographic generator: then the figure
holds for what such noise models, not for the run itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedcore.defences.base import DEFENCES, Defence
from fedcore.defences.clip import Clip
from fedcore.defences.dp_sgd import DpSgd
from fedcore.defences.gaussian import Gaussian
from fedcore.plan import Choice
from fedcore.strict import build
from fedcore.types import Missing

__all__ = ["DELTA", "Guarantee", "gaussian_epsilon", "guarantee", "sampled_epsilon"]

DELTA = 1e-5

_LARGEST_EPSILON = 1e6  # beyond any meaning


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """Differential privacy of all rounds of a run together.

    Attributes:
        epsilon: at `DELTA`.
        of: what it protects.
    """

    epsilon: float
    of: Literal["example", "client"]


def guarantee(defences: Sequence[Choice], *, n_rounds: int) -> Guarantee | Missing:
    """What an arm's defences guarantee after so many rounds, or why nothing.

    Whatever comes behind the noise (top-k, signs, a codec) takes nothing off it. What stands
    before it could change how much one example weighs, and then nothing is proven here.
    """
    steps = [build(DEFENCES, choice) for choice in defences]
    found = _noise_multiplier(steps)
    if isinstance(found, Missing):
        return found
    noise_multiplier, of = found
    epsilon = gaussian_epsilon(noise_multiplier, n_rounds=n_rounds, delta=DELTA)
    return Guarantee(epsilon=epsilon, of=of)


def gaussian_epsilon(noise_multiplier: float, *, n_rounds: int, delta: float) -> float:
    """Smallest epsilon of that many Gaussian mechanisms on the same data.

    Together they are one Gaussian mechanism with mu = sqrt(n_rounds) / noise_multiplier, and
    delta(epsilon) = Phi(-epsilon / mu + mu / 2) - exp(epsilon) Phi(-epsilon / mu - mu / 2)
    (Dong, Roth and Su, "Gaussian Differential Privacy", arXiv 1905.02383, corollaries 1 and 2).

    Args:
        noise_multiplier: standard deviation per unit of one example's largest weight, > 0.
        n_rounds: >= 1.
        delta: in (0, 1).
    """
    mu = math.sqrt(n_rounds) / noise_multiplier
    low, high = 0.0, _LARGEST_EPSILON
    if _delta(0.0, mu) <= delta:
        return 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, mu) > delta else (low, middle)
    return high


def sampled_epsilon(
    noise_multiplier: float, *, sampling_rate: float, n_rounds: int, delta: float
) -> float | Missing:
    """The same, were each example in a batch with this probability, by a coin of its own.

    Renyi accounting of dp-accounting (extra "privacy").
    """
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError:
        return Missing(why="dp-accounting is not installed: pip install 'leakwatt[privacy]'")
    accountant = rdp.RdpAccountant()
    one = dp_accounting.PoissonSampledDpEvent(
        sampling_rate, dp_accounting.GaussianDpEvent(noise_multiplier)
    )
    accountant.compose(one, n_rounds)
    return float(accountant.get_epsilon(delta))


def _noise_multiplier(
    steps: Sequence[Defence],
) -> tuple[float, Literal["example", "client"]] | Missing:
    first = steps[0] if steps else None
    if isinstance(first, DpSgd) and first.noise_multiplier > 0:
        return first.noise_multiplier, "example"
    second = steps[1] if len(steps) > 1 else None
    if isinstance(first, Clip) and isinstance(second, Gaussian) and second.sigma > 0:
        return second.sigma / (2 * first.max_norm), "client"
    return Missing(why="the defences do not begin with dp-sgd, or with clip and then gaussian")


def _delta(epsilon: float, mu: float) -> float:
    """The delta that goes with an epsilon; a subtrahend that underflows is left out: no less."""
    upper = math.erfc((epsilon / mu - mu / 2) / math.sqrt(2)) / 2
    lower = math.erfc((epsilon / mu + mu / 2) / math.sqrt(2)) / 2
    return upper - (math.exp(epsilon + math.log(lower)) if lower > 0 else 0.0)
