"""Frames of one example from what is believed of each spike, where frames foretell slopes.

Where the update tells what the readout sends back, frames alone foretell the slopes in all
currents (`attacker.exact.order`), and slopes tell the frames again. But surrogates are steep: a
few wrong spikes move membranes enough to foretell slopes that are quite wrong, and going to and
fro between the best of both goes astray. So both are believed with their uncertainty, which is
variational inference with a mean field, its noise annealed:

1. Frames drawn from the chances of their spikes foretell each neuron's slopes d over time, with a
   mean m and a covariance P.
2. The gradient g of the neuron corrects them: with the expected frames X and the noise's variance
   s^2, d has the covariance C = (E[X X^T] / s^2 + P^-1)^-1 and the mean C (X g / s^2 + P^-1 m).
3. Expected slopes and their covariances tell the chances of every word of each feature, where a
   feature's spikes come at a rate of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attacker.exact.equations import Obeying
from attacker.exact.order import KnownLayer, over_time
from attacker.exact.words import believed

__all__ = ["MAX_STEPS", "Evidence", "likeliest"]

MAX_STEPS = 16  # of a codebook that is searched many times
_TRUST = 0.7  # in the first guess; the rest is in each feature's rate
_N_DRAWS = 48
_ANNEALED = np.geomspace(8.0, 0.5, 60)  # the noise's variance, in units of what rounding makes
_N_TRIES = 2
_LEAST_SPREAD = 1e-3  # of slopes, in units of their mean square
_RIDGE = 1e-9
_SLACK = 2.0  # of the largest error, since what was sent back is fitted


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The gradient of one example in a layer before the readout.

    Attributes:
        slopes: of the loss in the layer's weight, [neuron, feature].
        error: the most that rounding does to each of them, the same shape.
        layer: whose equations hold; it is followed by the readout.
        counts: how much each step counts in the logits, [time].
        sent_back: slopes of the loss in the logits, as far as they are known, [class].
    """

    slopes: np.ndarray
    error: np.ndarray
    layer: KnownLayer
    counts: np.ndarray
    sent_back: np.ndarray

    def explained_by(self, fit: Obeying) -> bool:
        """Whether every entry is, up to about its rounding: one wrong spike would show."""
        left = np.abs(self.slopes - fit.atoms @ fit.frames)
        return bool((left <= _SLACK * self.error).all())

    def of(self, features: np.ndarray) -> Evidence:
        """The same of a few features only."""
        layer = replace(self.layer, weight=self.layer.weight[:, features])
        return replace(
            self, slopes=self.slopes[:, features], error=self.error[:, features], layer=layer
        )


def likeliest(guess: np.ndarray, evidence: Evidence) -> Obeying:
    """The best fit on the way from these frames, in a few tries.

    Args:
        guess: at the frames in the order of time, at most `MAX_STEPS`, [time, feature].
        evidence: all that is known.
    """
    active = np.flatnonzero(evidence.slopes.any(axis=0))
    some = evidence.of(active)
    best = _foretelling(guess[:, active], some)
    for seed in range(_N_TRIES):
        fit = _annealed(guess[:, active], some, rng=np.random.default_rng(seed))
        best = min(best, fit, key=lambda one: one.residual)
        if some.explained_by(best):
            break
    frames = np.zeros(guess.shape)
    frames[:, active] = best.frames
    return replace(best, frames=frames)


def _annealed(guess: np.ndarray, evidence: Evidence, *, rng: np.random.Generator) -> Obeying:
    """The likeliest frames with the smallest residual on the way."""
    chances = _TRUST * guess + (1 - _TRUST) * guess.mean(axis=0)
    best = _foretelling(guess, evidence)
    for noise in np.mean(evidence.error**2) / 3 * _ANNEALED:
        expected, spread = _corrected(chances, evidence, noise=noise, rng=rng)
        rate = (chances.sum(axis=0) + 0.5) / (len(chances) + 1)
        belief = believed(
            (expected.T @ expected + spread) / noise,
            expected.T @ evidence.slopes / noise + np.log(rate / (1 - rate)),
        )
        chances = belief.chances
        fit = _foretelling(belief.words, evidence)
        best = min(best, fit, key=lambda one: one.residual)
        if evidence.explained_by(fit):
            break
    return best


def _corrected(
    chances: np.ndarray, evidence: Evidence, *, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Expected slopes in currents, [neuron, time], and their covariances' sum, [time, time]."""
    drawn = rng.random((_N_DRAWS, *chances.shape), dtype=np.float32) < chances
    foretold = _gains(drawn, evidence)
    foretold *= (evidence.sent_back @ evidence.layer.following)[:, None, None]
    mean = foretold.mean(axis=2)
    rest = foretold - mean[:, :, None]
    covariance = rest @ rest.swapaxes(1, 2) / (_N_DRAWS - 1)
    floor = _LEAST_SPREAD * (mean**2).mean(axis=1) + 1e-6 * noise
    precision = np.linalg.inv(covariance + floor[:, None, None] * np.eye(len(chances)))
    overlap = chances @ chances.T + np.diag((chances * (1 - chances)).sum(axis=1))
    corrected = np.linalg.inv(overlap / noise + precision)
    agreed = evidence.slopes @ chances.T / noise + np.einsum("ntu,nu->nt", precision, mean)
    return np.einsum("ntu,nu->nt", corrected, agreed), corrected.sum(axis=0)


def _foretelling(frames: np.ndarray, evidence: Evidence) -> Obeying:
    """Frames with the slopes that they foretell, what was sent back fitted: it was rounded, too."""
    gains = _gains(frames[np.newaxis], evidence)[:, :, 0]
    images, following = gains @ frames, evidence.layer.following
    normal = following * (images**2).sum(axis=1) @ following.T
    normal += _RIDGE * np.trace(normal) / len(normal) * np.eye(len(normal))
    sent_back = np.linalg.solve(normal, following @ (images * evidence.slopes).sum(axis=1))
    atoms = (sent_back @ following)[:, np.newaxis] * gains
    left = np.linalg.norm(evidence.slopes - atoms @ frames)
    return Obeying(
        frames=frames, atoms=atoms, residual=float(left / np.linalg.norm(evidence.slopes))
    )


def _gains(frames: np.ndarray, evidence: Evidence) -> np.ndarray:
    """Slopes in the currents of frames, in units of what each neuron receives back.

    Args:
        frames: [draw, time, feature].
        evidence: of which the slopes do not matter.

    Returns:
        [neuron, time, draw].
    """
    layer = evidence.layer
    weight = layer.weight.T.astype(np.float32)
    currents = (frames.astype(np.float32) @ weight).swapaxes(0, 1) + layer.bias
    surrogate, stays = over_time(currents, layer.neuron)
    gains, later = np.zeros(currents.shape), np.zeros(currents.shape[1:])
    for t in reversed(range(len(gains))):
        later = evidence.counts[t] * surrogate[t] + layer.neuron.decay * stays[t] * later
        gains[t] = later
    return np.ascontiguousarray(gains.transpose(2, 0, 1))
