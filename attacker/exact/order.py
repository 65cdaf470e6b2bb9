"""When each frame came, and which frames belong to one example.

A layer of LIF neurons has known membranes as soon as its first frames are known. With the slope
s' of its surrogate there, what the next layer sends back, W2^T e, and a reset that is detached,
the slopes in the currents obey

    D[t] = s'(v[t]) * (W2^T e[t]) + decay * r[t] * D[t+1],    D[T] = 0,

where r[t] is 1 for reset "subtract" and 1 - s[t] for "zero". So the frame that follows is the one
whose atom leaves D[t] - decay * r[t] * D[t+1] in the span of the columns of diag(s'(v[t])) W2^T:
a few directions among all neurons. Neither labels nor later layers need to be known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fedcore.nn.surrogates import spike
from fedcore.plan import NeuronSpec

__all__ = ["KnownLayer", "Ordering", "after_spikes", "in_order", "over_time"]


@dataclass(frozen=True, kw_only=True)
class KnownLayer:
    """A first layer with its neurons, and the weight behind it.

    Attributes:
        weight: [neuron, feature].
        bias: [neuron].
        following: weight of the next layer, [next neuron, neuron].
        neuron: LIF with a detached reset.
    """

    weight: np.ndarray
    bias: np.ndarray
    following: np.ndarray
    neuron: NeuronSpec


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """Frames in the order of time, by example.

    Attributes:
        frames: indices [example, time].
        misfit: largest share of a step's slopes that the layer's equations leave unexplained.
    """

    frames: np.ndarray
    misfit: float


def in_order(
    frames: np.ndarray, atoms: np.ndarray, *, layer: KnownLayer, n_examples: int
) -> Ordering:
    """Walk from the frames that fit best as first ones to those that fit best as next ones.

    Args:
        frames: [frame, feature], `n_examples` times the number of steps.
        atoms: slopes in their currents, [neuron, frame].
        layer: whose equations they obey.
        n_examples: in the batch; their frames all have the same number.
    """
    n_steps = len(frames) // n_examples
    currents = frames @ layer.weight.T + layer.bias
    unused = set(range(len(frames)))
    misfits = []
    at_rest = np.zeros(len(layer.bias))
    firsts = {i: _next(i, at_rest, unused - {i}, currents, atoms, layer)[1] for i in unused}
    if n_steps == 1:
        firsts = dict.fromkeys(unused, 0.0)
    starts = sorted(firsts, key=firsts.__getitem__)[:n_examples]
    unused -= set(starts)
    paths = []
    for start in starts:
        path, membrane = [start], at_rest
        for _ in range(n_steps - 1):
            following, misfit, membrane = _next(path[-1], membrane, unused, currents, atoms, layer)
            path.append(following)
            unused.remove(following)
            misfits.append(misfit)
        paths.append(path)
    return Ordering(frames=np.array(paths), misfit=max(misfits, default=0.0))


def _next(
    frame: int,
    membrane: np.ndarray,
    candidates: set[int],
    currents: np.ndarray,
    atoms: np.ndarray,
    layer: KnownLayer,
) -> tuple[int, float, np.ndarray]:
    """The best frame behind this one, its misfit, and the membrane that it starts from."""
    charged = layer.neuron.decay * membrane + currents[frame]
    slope, stays, after = after_spikes(charged, layer.neuron)
    if not candidates:
        return frame, 0.0, after
    directions, _ = np.linalg.qr(slope[:, None] * layer.following.T)
    some = sorted(candidates)
    rest = atoms[:, [frame]] - layer.neuron.decay * stays[:, None] * atoms[:, some]
    left = np.linalg.norm(rest - directions @ (directions.T @ rest), axis=0)
    best = int(left.argmin())
    return some[best], float(left[best] / np.linalg.norm(atoms[:, frame])), after


def after_spikes(
    charged: np.ndarray, neuron: NeuronSpec
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surrogate's slope at these membranes, r of the equations, and the membranes after reset.

    Args:
        charged: membranes before they spike, [..., neuron].
        neuron: LIF with a detached reset.
    """
    v = torch.from_numpy(charged).requires_grad_()
    fired = spike(v - neuron.threshold, kind=neuron.surrogate, sharpness=neuron.sharpness)
    (slope,) = torch.autograd.grad(fired.sum(), v)
    spikes = fired.detach().numpy()
    if neuron.reset == "zero":
        return slope.numpy(), 1 - spikes, charged * (1 - spikes)
    return slope.numpy(), np.ones_like(spikes), charged - neuron.threshold * spikes


def over_time(currents: np.ndarray, neuron: NeuronSpec) -> tuple[np.ndarray, np.ndarray]:
    """The surrogate's slope and r of the equations at every step from rest, as `currents`.

    Args:
        currents: [time, ..., neuron].
        neuron: LIF with a detached reset.
    """
    membrane = np.zeros(currents.shape[1:])
    slopes, stays = np.zeros(currents.shape), np.zeros(currents.shape)
    for t, current in enumerate(currents):
        slopes[t], stays[t], membrane = after_spikes(neuron.decay * membrane + current, neuron)
    return slopes, stays
