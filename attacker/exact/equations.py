"""Frames of one example that a coarsely rounded gradient hides, from the layer's own equations.

Frames that follow each other can have slopes that are almost parallel: before the first spike they
differ by little more than the decay. Coarse noise then lets wrong frames fit as well as true ones.
With what `attacker.exact.order` says of a layer of LIF neurons, the slopes of all frames are linear
in what the next layer sends back, a few numbers per step where there was one per neuron. So given
frames, these are a small linear fit; given slopes, the best binary column of each feature is
found among all words. The two alternate, from neighbouring orders in time, until nothing improves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacker.exact.order import KnownLayer, over_time
from attacker.exact.words import nearest

__all__ = ["MAX_FRAMES", "Obeying", "obeying"]

MAX_FRAMES = 10  # of a codebook that is searched many times
_N_ROUNDS = 15
_N_SWAPS = 6
_RIDGE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Obeying:
    """Frames in the order of time with slopes that obey the layer's equations.

    Attributes:
        frames: binary, [time, feature].
        atoms: slopes in their currents, [neuron, time].
        residual: |gradient - atoms frames| / |gradient|.
    """

    frames: np.ndarray
    atoms: np.ndarray
    residual: float


def obeying(frames: np.ndarray, slopes: np.ndarray, *, layer: KnownLayer) -> Obeying:
    """The best fit that is reached from these frames and from swaps of neighbours.

    Args:
        frames: a first guess at them and at their order in time, at most `MAX_FRAMES`,
            [time, feature].
        slopes: of the loss in the layer's weight, [neuron, feature].
        layer: whose equations hold.
    """
    best = _alternated(frames, slopes, layer)
    for _ in range(_N_SWAPS):
        swapped = [_alternated(one, slopes, layer) for one in _neighbours(best.frames)]
        rival = min(swapped, key=lambda one: one.residual, default=best)
        if rival.residual >= best.residual:
            break
        best = rival
    return best


def _neighbours(frames: np.ndarray) -> list[np.ndarray]:
    """The same frames with two that follow each other swapped."""
    order = np.arange(len(frames))
    return [frames[[*order[:i], i + 1, i, *order[i + 2 :]]] for i in range(len(frames) - 1)]


def _alternated(frames: np.ndarray, slopes: np.ndarray, layer: KnownLayer) -> Obeying:
    """The best fit on the way."""
    best = _fitted(frames, slopes, layer)
    for _ in range(_N_ROUNDS):
        fit = _fitted(nearest(best.atoms, slopes), slopes, layer)
        if fit.residual >= best.residual:
            break
        best = fit
    return best


def _fitted(frames: np.ndarray, slopes: np.ndarray, layer: KnownLayer) -> Obeying:
    """The best slopes that obey the equations along these frames.

    The fit of atoms to the gradient is one to the few columns R with C R = frames gradient^T, where
    C C^T = frames frames^T.
    """
    n_steps = len(frames)
    overlap = frames @ frames.T
    factor = np.linalg.cholesky(overlap + _RIDGE * (1 + np.trace(overlap)) * np.eye(n_steps))
    target = np.linalg.solve(factor, frames @ slopes.T)
    directions = _directions(frames, layer)
    design = np.einsum("ts,tnk->snk", factor, directions).reshape(target.size, -1)
    normal = design.T @ design
    normal += _RIDGE * np.trace(normal) / len(normal) * np.eye(len(normal))
    sent_back = np.linalg.solve(normal, design.T @ target.ravel())
    atoms = (directions @ sent_back).T
    residual = float(np.linalg.norm(slopes - atoms @ frames) / np.linalg.norm(slopes))
    return Obeying(frames=frames, atoms=atoms, residual=residual)


def _directions(frames: np.ndarray, layer: KnownLayer) -> np.ndarray:
    """How slopes follow from what the next layer sends back, [time, neuron, time * next neuron]."""
    surrogate, stays = over_time(frames @ layer.weight.T + layer.bias, layer.neuron)
    n_next, n_neurons = layer.following.shape
    directions = np.zeros((len(frames), n_neurons, len(frames) * n_next))
    later = directions[0]
    for t in reversed(range(len(frames))):
        directions[t] = layer.neuron.decay * stays[t][:, None] * later
        directions[t, :, t * n_next : (t + 1) * n_next] = surrogate[t][:, None] * layer.following.T
        later = directions[t]
    return directions
