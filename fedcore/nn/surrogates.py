"""A spike that fires like a step and learns like a smooth curve.

Forward is the Heaviside step, H(x) = 1 where x >= 0, of the membrane's distance to threshold.
Backward is the derivative s'(x) of a primitive s, so that gradient-inversion attacks, which
differentiate the client's gradient once more, find a finite second derivative everywhere. With
the sharpness k (`surrogate.` of each package; "none" where it has no such curve):

| kind         | s'(x)                        | snnTorch              | SpikingJelly               |
|--------------|------------------------------|-----------------------|----------------------------|
| fast_sigmoid | 1 / (1 + k|x|)^2             | fast_sigmoid(slope=k) | k/2 s' is SoftSign(k)      |
| arctan       | k/2 / (1 + (pi/2 k x)^2)     | atan(alpha=k)         | ATan(alpha=k)              |
| triangle     | max(0, k - k^2 |x|)          | none                  | PiecewiseQuadratic(alpha=k)|
| rectangle    | k where |x| <= 1/(2k), or 0  | none                  | Rect(alpha=k)              |
| sigmoid      | k sigma(kx) (1 - sigma(kx))  | sigmoid(slope=k)      | Sigmoid(alpha=k)           |
| exponential  | k/2 exp(-k|x|)               | none                  | none; SLAYER's             |

All but fast_sigmoid enclose the area 1; fast_sigmoid has the height 1 (area 2/k), as in
SuperSpike (Zenke and Ganguli 2018, doi:10.1162/neco_a_01086, section 3.3.2). snnTorch's
`triangular` is no triangle (it is -1 above and +1 below the threshold), and its `sigmoid` turns
to NaN far from the threshold where ours does not. At a kink the second derivative is one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.registry import nearest

__all__ = ["SURROGATES", "smooth", "spike"]


def _fast_sigmoid(x: Tensor, k: float) -> Tensor:
    return x / (1 + k * x.abs())


def _arctan(x: Tensor, k: float) -> Tensor:
    return torch.atan(x * (math.pi / 2 * k)) / math.pi


def _clip(x: Tensor, limit: float) -> Tensor:
    """Hold x within +-limit. On the limit the slope is 1, where torch's clamp may have 0."""
    return torch.where(x.abs() <= limit, x, limit * x.sign())


def _triangle(x: Tensor, k: float) -> Tensor:
    inside = _clip(x, 1 / k)
    return k * inside - (k**2 / 2) * inside * inside.abs()


def _rectangle(x: Tensor, k: float) -> Tensor:
    return k * _clip(x, 0.5 / k)


def _sigmoid(x: Tensor, k: float) -> Tensor:
    return torch.sigmoid(k * x)


def _exponential(x: Tensor, k: float) -> Tensor:
    side = 2 * (x >= 0).to(x.dtype) - 1  # unlike x.sign(), not 0 at 0, where the slope is k/2
    return -side / 2 * torch.expm1(-k * side * x)


SURROGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "fast_sigmoid": _fast_sigmoid,
    "arctan": _arctan,
    "triangle": _triangle,
    "rectangle": _rectangle,
    "sigmoid": _sigmoid,
    "exponential": _exponential,
}
"""The primitive s(x, k) of each kind, up to a constant."""


def smooth(x: Tensor, *, kind: str, sharpness: float) -> Tensor:
    """The primitive s(x) itself: what `spike` pretends to be when it is differentiated.

    Raises:
        ConfigError: no surrogate of that kind.
    """
    if kind not in SURROGATES:
        known = sorted(SURROGATES)
        raise ConfigError(
            f"no surrogate {kind!r} (known: {', '.join(known)}){nearest(kind, known)}"
        )
    return SURROGATES[kind](x, sharpness)


def spike(x: Tensor, *, kind: str, sharpness: float) -> Tensor:
    """Fire where the membrane has reached its threshold.

    Args:
        x: membrane minus threshold, any shape.
        kind: of the surrogate, see the module's table.
        sharpness: k > 0; larger is closer to the true step.

    Returns:
        Exactly 0 or 1 in the dtype and shape of `x`; differentiates as s(x), any number of
        times, under autograd and under torch.func's grad and vmap.

    Raises:
        ConfigError: no surrogate of that kind.
    """
    s = smooth(x, kind=kind, sharpness=sharpness)
    # The bracket is exactly zero, however s was rounded, and differentiates as s.
    return (x >= 0).to(x.dtype) + (s - s.detach())
