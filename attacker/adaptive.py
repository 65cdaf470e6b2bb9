"""What a defence or a codec did to an update, read off the update, and how an objective meets it.

A defence that only beats an attack which does not know of it is none. Nothing here needs the
defence's settings: what was cut, reduced to signs, rounded or drowned in noise shows in the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log10, prod, sqrt
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from attacker.batch import Objective
from attacker.objectives import inner_product
from attacker.priors import total_variation
from attacker.pruning import was_pruned
from fedcore.nn.models import READOUT
from fedcore.nn.models.bottleneck import RANDOM_LAYERS
from fedcore.plan import Choice, ModelSpec
from fedcore.types import TensorMap

__all__ = ["Adaptation", "Loss", "Reading", "adaptation_to", "noise_of"]

Loss = Callable[..., Tensor]
"""(found, target, candidate, n_spatial=...) -> the loss of one row."""

Reading = Literal["plain", "cut", "signs"]
"""How gradients are compared: as they are; "cut" where small values were set to zero; "signs" where
no more than signs are left."""

_VARIATION = 2.5  # of values in [0, 1] along a whole image; shared out among its pixels
_LEAST_PRIOR, _MOST_PRIOR = 0.001, 0.3
_LIKE_NOISE = {"cut": 0.2, "signs": 0.35}  # which asks for as much prior
_SOFTNESS = 0.3  # of a sign, in mean magnitudes of its tensor
_MAX_LEVELS = 256  # more of them are no rounding that matters
_TINY = 1e-20


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How an objective meets one kind of defended update.

    Attributes:
        reading: how gradients are compared.
        prior: weight of the total variation that is added to the attack's own loss.
        withheld: tensors that were sent as zeros.
        pruned: weights of which columns were set to zero.
        skipped: tensors whose gradients hang on the client's own draws.
        noise: its length in lengths of the gradient, as estimated, or what asks for as much prior.
    """

    reading: Reading = "plain"
    prior: float = 0.0
    withheld: tuple[str, ...] = ()
    pruned: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    noise: float = 0.0

    @property
    def ignored(self) -> tuple[str, ...]:
        """Tensors that are not compared."""
        return self.withheld + self.skipped

    @property
    def kind(self) -> tuple[str, float, tuple[str, ...], tuple[str, ...]]:
        """Equal for updates that one objective fits."""
        return (self.reading, self.prior, self.ignored, self.pruned)

    @property
    def certificate(self) -> dict[str, float]:
        """What was chosen, for the reconstruction; empty where nothing was adapted."""
        chosen = {f"adapted to {self.reading}": 1.0} if self.reading != "plain" else {}
        for what in ("withheld", "pruned", "skipped"):
            if names := getattr(self, what):
                chosen[f"{what} tensors"] = float(len(names))
        if self.prior:
            chosen["added prior"] = self.prior
            if self.reading == "plain":
                chosen["estimated noise"] = self.noise
        return chosen

    def objective(self, loss: Loss, *, n_spatial: int) -> Objective:
        """The attack's loss on what this update can be held to."""
        if self == Adaptation(noise=self.noise):
            return partial(loss, n_spatial=n_spatial)

        def adapted(
            found: Mapping[str, Tensor], target: Mapping[str, Tensor], candidate: Tensor
        ) -> Tensor:
            names = [name for name in target if name not in self.ignored]
            sent = {name: target[name] for name in names}
            told = {
                name: torch.where(sent[name].any(0), found[name], 0.0)
                if name in self.pruned
                else found[name]
                for name in names
            }
            read = _READINGS[self.reading](told, sent)
            prior = total_variation(candidate, n_spatial=n_spatial)
            return loss(*read, candidate, n_spatial=n_spatial) + self.prior * prior

        return adapted


def adaptation_to(
    gradient: TensorMap,
    *,
    model: ModelSpec,
    n_inputs: int,
    weights: TensorMap | None = None,
    defences: Sequence[Choice] = (),
) -> Adaptation:
    """Read off an update what was done to it.

    Args:
        gradient: as observed, float32 by name.
        model: of which it is the gradient.
        n_inputs: examples to look for.
        weights: where the gradient was taken, if it is of one step.
        defences: as far as they are known.
    """
    withheld, skipped = _withheld(gradient), _behind_draws(gradient, model)
    rest = {name: g for name, g in gradient.items() if name not in withheld and g.size}
    if not any(g.any() for g in rest.values()):
        return Adaptation()
    reading: Reading = "plain"
    if all(_is_signs(g) for g in rest.values()) and sum(g.size for g in rest.values()) > 100:
        reading = "signs"
    elif _is_cut(rest):
        reading = "cut"
    noise = (
        max(_rounding_of(rest), noise_of(rest, model=model))
        if reading == "plain"
        else _LIKE_NOISE[reading]
    )
    pruned = [f"{d.options.get('layer', READOUT)}.weight" for d in defences if d.name == "soteria"]
    if weights and n_inputs == 1 and was_pruned(rest, weights, model=model, noise=noise):
        pruned.append(f"{READOUT}.weight")
    n_values = sum(g.size for g in rest.values())
    n_pixels = n_inputs * prod(model.input_shape)
    prior = _prior(noise, share=n_pixels / n_values, side=model.input_shape[-1])
    return Adaptation(
        reading=reading,
        prior=prior,
        withheld=withheld,
        pruned=tuple(sorted(set(pruned))),
        skipped=skipped,
        noise=noise,
    )


def _prior(noise: float, *, share: float, side: int) -> float:
    """The weight of total variation that makes the cosine's minimum the most probable input.

    With noise of r lengths of the gradient on n values, one unit of cosine distance is worth
    n sqrt(1 + r^2) / r^2 units of log likelihood, and one of total variation over m pixels with
    Laplace-distributed differences of mean b is worth m / b of the prior's. Rounded to half a
    decade, so that victims can share a search.

    Args:
        noise: r.
        share: m / n.
        side: pixels along a row; b is `_VARIATION` / side.
    """
    weight = share * side / _VARIATION * noise**2 / sqrt(1 + noise**2)
    if weight < _LEAST_PRIOR:
        return 0.0
    return min(10 ** (round(2 * log10(weight)) / 2), _MOST_PRIOR)


def noise_of(gradient: TensorMap, *, model: ModelSpec) -> float:
    """Length of independent noise of one size on every value, in lengths of the gradient.

    The derivatives of a softmax's cross-entropy in the logits add up to zero, and with them the
    rows of the readout's weight gradient, for any batch and any number of steps. What they add up
    to instead is noise: its variance times the number of classes. What rounding alone can bring
    about is taken off first.

    Returns:
        0 where there is no such sum (no readout in the update, or a neuron behind it), or where
        values are exactly zero, which noise leaves none.
    """
    rows = gradient.get(f"{READOUT}.weight")
    if rows is None or (model.spiking and model.readout == "spike_count"):
        return 0.0
    step = _step_of(rows)
    if not step and not rows.all():
        return 0.0
    sums = np.abs(rows.astype(np.float64).sum(axis=0))
    sums = np.maximum(sums - step * len(rows), 0.0)
    n_values = sum(g.size for g in gradient.values())
    return _relative(n_values * float(np.mean(sums**2)) / len(rows), gradient)


def _relative(noise_energy: float, gradient: TensorMap) -> float:
    """From the energy of the noise in an update to its length in lengths of what lies under it."""
    whole = sum(float(np.square(g, dtype=np.float64).sum()) for g in gradient.values())
    return float(np.sqrt(noise_energy / max(whole - noise_energy, 0.01 * whole)))


def _withheld(gradient: TensorMap) -> tuple[str, ...]:
    """Biases without a gradient beside weights with one: no network does that by itself."""
    silent = []
    for name, bias in gradient.items():
        layer, _, kind = name.rpartition(".")
        weight = gradient.get(f"{layer}.weight")
        if kind == "bias" and weight is not None and weight.any() and not bias.any():
            silent.append(name)
    return tuple(silent)


def _behind_draws(gradient: TensorMap, model: ModelSpec) -> tuple[str, ...]:
    """The bottleneck and what follows it: without their gradients no draw matters much.

    The attack on PRECODE of Scheliga et al. 2022 (arXiv 2208.04767).
    """
    if model.name != "bottleneck":
        return ()
    return tuple(name for name in gradient if name.partition(".")[0] in RANDOM_LAYERS)


def _is_signs(values: np.ndarray) -> bool:
    """Whether all values have one magnitude, or are zero."""
    sizes = np.abs(values[values != 0])
    return sizes.size == 0 or bool(sizes.max() - sizes.min() <= 1e-5 * sizes.max())


def _rounding_of(gradient: TensorMap) -> float:
    """Length of the rounding errors of evenly spaced values, in lengths of the gradient.

    A rounded value errs by step / sqrt(12) at random (to the nearest level) and by up to
    step / sqrt(6) (to one of both neighbours); the latter is assumed.
    """
    energy = sum(values.size * _step_of(values) ** 2 / 6 for values in gradient.values())
    return _relative(energy, gradient)


def _step_of(values: np.ndarray) -> float:
    """What all values are multiples of, or 0 where there is no such step."""
    levels = np.unique(np.abs(values)).astype(np.float64)
    if not 2 <= len(levels) <= min(_MAX_LEVELS, values.size / 4):
        return 0.0
    step = float(np.diff(levels).min())
    spacing = levels / max(step, _TINY * levels[-1])
    is_even = step > 1e-4 * levels[-1] and np.abs(spacing - np.rint(spacing)).max() < 0.02
    return step if is_even else 0.0


def _is_cut(gradient: TensorMap) -> bool:
    """Whether small values were set to zero."""
    return _has_common_share(gradient) or _has_gap(gradient)


def _has_common_share(gradient: TensorMap) -> bool:
    """Whether one share of every tensor's values is left: all but the largest were cut."""
    if len(gradient) < 3:  # two may agree by chance
        return False
    sizes = np.array([g.size for g in gradient.values()])
    kept = np.array([np.count_nonzero(g) for g in gradient.values()])
    lowest = np.where(kept > 1, (kept - 0.5) / sizes, 0.0).max()
    highest = ((kept + 0.5) / sizes).min()
    return bool(lowest <= highest and lowest < 0.95 and sizes.max() >= 50)


def _has_gap(gradient: TensorMap) -> bool:
    """Whether no value lies near zero, where most should be.

    Of k values spread smoothly around zero, the smallest is about 1/k of the typical one. The
    readout is left out: its gradient is a product of few numbers, and no smooth spread.
    """
    hidden = [g for name, g in gradient.items() if not name.startswith(f"{READOUT}.")]
    n_cut = sum(g.size for g in hidden if _is_gap(g))
    return n_cut > sum(g.size for g in hidden) / 2


def _is_gap(values: np.ndarray) -> bool:
    sizes = np.abs(values[values != 0].astype(np.float64))
    if not 20 <= sizes.size < values.size or np.unique(sizes).size < sizes.size / 2:
        return False
    return bool(sizes.min() > 10 / sizes.size * np.sqrt(np.mean(sizes**2)))


def _plain(
    found: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    return found, target


def _cut(
    found: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A zero stands for anything not above the smallest value that was kept in its tensor.

    The candidate's gradient is brought to the length of the kept values first, and then compared
    with the nearest gradient that could have been cut to the observed one.
    """
    kept = {name: torch.where(t != 0, found[name], 0.0) for name, t in target.items()}
    scale = inner_product(kept, target) / inner_product(kept, kept).clamp(min=_TINY)
    scaled = {name: scale.clamp(min=_TINY) * f for name, f in found.items()}
    nearest = {}
    for name, t in target.items():
        smallest = torch.where(t != 0, t.abs(), torch.inf).min()
        nearest[name] = torch.where(
            t != 0, t, torch.minimum(torch.maximum(scaled[name], -smallest), smallest)
        )
    return scaled, nearest


def _signs(
    found: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Soft signs of the candidate's gradient beside the observed ones."""
    soft = {
        name: torch.tanh(f / (_SOFTNESS * f.abs().mean()).clamp(min=_TINY))
        for name, f in found.items()
    }
    return soft, {name: torch.sign(t) for name, t in target.items()}


_READINGS = {"cut": _cut, "plain": _plain, "signs": _signs}
