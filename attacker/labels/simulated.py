"""Counts by an estimator that was trained and chosen on clients that the attacker makes up.

A trained network is sure of most examples, and the residuals of one class lie over many powers of
ten. How many examples stand behind a sum of such residuals has no formula, but whoever holds
examples of the same kind can draw clients from them, knows each one's counts, and can learn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attacker.labels.class_means import ClassMeans
from attacker.labels.counts import rounded
from attacker.labels.learned import LearnedCounts
from attacker.labels.readout import Auxiliary, Readout
from fedcore.seeds import stream

__all__ = ["best_on_simulated_clients"]

_N_TRAINING = 3000
_N_JUDGED = 200
_JUDGED_SHARE = 4  # of each class every fourth example judges
_CONCENTRATIONS = (-0.5, 2.5)  # powers of ten


@dataclass(frozen=True, kw_only=True)
class _Clients:
    """What clients hold and what the attacker sees of them.

    Attributes:
        counts: examples of each class, int64 [client, class].
        residuals: mean residual, [client, class].
        along: mean residual times how far the features lie on the class's side, [client, class].
        matches: with the mean gradient of each class, [client, class].
    """

    counts: np.ndarray
    residuals: np.ndarray
    along: np.ndarray
    matches: np.ndarray


def best_on_simulated_clients(readout: Readout) -> np.ndarray:
    """Counts by the one of three estimators that is best on clients drawn from auxiliary data.

    The three: the flat formula, class means, and a small network that learned counts from the
    gradients of such clients. A client's number of classes and how even they are is drawn anew for
    each; the examples that judge have no part in the training. Trained networks leave all three
    far from the truth: what examples of which the network is sure add is too small to be counted.

    Raises:
        KnowledgeError: auxiliary data are not granted.
        AttackError: the update does not hold the gradient in the readout's bias.
    """
    n_examples, slope = readout.n_examples, readout.need_bias_slope()
    taught, judging = _split(readout.need_auxiliary())
    means = ClassMeans.of(taught, with_bias=True)
    sides = _sides(taught)
    rng = stream(0, "label-clients", n_examples)
    training = _draw(taught, means, sides, n_clients=_N_TRAINING, n_examples=n_examples, rng=rng)
    judged = _draw(judging, means, sides, n_clients=_N_JUDGED, n_examples=n_examples, rng=rng)
    learned = LearnedCounts.from_clients(_evidence(training), training.counts)
    seen = _Clients(
        counts=np.zeros((1, readout.n_classes), np.int64),
        residuals=slope[None],
        along=((readout.weight_slope - slope[:, None] * sides.middle) * sides.normals).sum(1)[None],
        matches=means.match(readout)[None],
    )

    def estimates(clients: _Clients) -> list[np.ndarray]:
        return [
            n_examples * (1 / readout.n_classes - clients.residuals),
            means.counts(clients.matches, n_examples=n_examples),
            learned.counts(_evidence(clients), n_examples=n_examples),
        ]

    scores = [_overlap(estimate, judged.counts) for estimate in estimates(judged)]
    best: np.ndarray = estimates(seen)[int(np.argmax(scores))][0]
    return best


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """Where a class's features lie: (features - middle) @ normal is 1 at the class's mean.

    Attributes:
        middle: mean of all features, [feature].
        normals: [class, feature]; zeros for a class without an example.
    """

    middle: np.ndarray
    normals: np.ndarray


def _sides(auxiliary: Auxiliary) -> _Sides:
    features = auxiliary.features.mean(axis=1)
    middle = features.mean(axis=0)
    normals = np.zeros((auxiliary.residuals.shape[-1], len(middle)))
    for label in np.unique(auxiliary.labels):
        away = features[auxiliary.labels == label].mean(axis=0) - middle
        normals[label] = away / max(float(away @ away), np.finfo(np.float32).tiny)
    return _Sides(middle=middle, normals=normals)


def _split(auxiliary: Auxiliary) -> tuple[Auxiliary, Auxiliary]:
    """Examples that teach and examples that judge; a class with too few does both."""
    teaching, judging = [], []
    for label in np.unique(auxiliary.labels):
        own = np.flatnonzero(auxiliary.labels == label)
        judges = own[_JUDGED_SHARE - 1 :: _JUDGED_SHARE]
        teaching.append(np.setdiff1d(own, judges))
        judging.append(judges if len(judges) else own)
    return _taken(auxiliary, np.concatenate(teaching)), _taken(auxiliary, np.concatenate(judging))


def _taken(auxiliary: Auxiliary, index: np.ndarray) -> Auxiliary:
    """In the order of `index`, which here is that of the labels."""
    return replace(
        auxiliary,
        labels=auxiliary.labels[index],
        residuals=auxiliary.residuals[index],
        features=auxiliary.features[index],
    )


def _draw(
    auxiliary: Auxiliary,
    means: ClassMeans,
    sides: _Sides,
    *,
    n_clients: int,
    n_examples: int,
    rng: np.random.Generator,
) -> _Clients:
    """Clients with examples sorted by label, drawn with repeats."""
    n_classes = auxiliary.residuals.shape[-1]
    there, starts, sizes = np.unique(auxiliary.labels, return_index=True, return_counts=True)
    shares = np.stack([_shares(len(there), rng) for _ in range(n_clients)])
    points = rng.random((n_clients, n_examples, 1))
    which = (points[..., 0, None] > shares.cumsum(axis=1)[:, None, :-1]).sum(axis=2)
    index = starts[which] + (rng.random(which.shape) * sizes[which]).astype(np.int64)
    counts = np.stack([np.bincount(row, minlength=n_classes) for row in there[which]])
    positions = (auxiliary.features - sides.middle) @ sides.normals.T  # [example, step, class]
    of_examples = np.stack(
        [
            auxiliary.residuals.mean(axis=1),
            (auxiliary.residuals * positions).mean(axis=1),
            means.matches(auxiliary, with_bias=True),
        ],
        axis=1,
    )
    seen = np.stack([of_examples[own].mean(axis=0) for own in index])
    return _Clients(counts=counts, residuals=seen[:, 0], along=seen[:, 1], matches=seen[:, 2])


def _shares(n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """What share of a client's examples each class has: few classes or many, even or not."""
    n_there = int(rng.integers(1, n_classes + 1))
    evenness = 10 ** rng.uniform(*_CONCENTRATIONS)
    shares = np.zeros(n_classes)
    own = rng.choice(n_classes, n_there, replace=False)
    shares[own] = rng.dirichlet(np.full(n_there, evenness))
    return shares


def _evidence(clients: _Clients) -> np.ndarray:
    """What the network learns from, [client, 3 * class]; a sign says that a class is there."""
    signs = np.sign(clients.residuals)
    return np.concatenate([clients.residuals, clients.along, signs], axis=1)


def _overlap(estimate: np.ndarray, counts: np.ndarray) -> float:
    """Mean share of labels that the rounded estimate names."""
    shares = [
        np.minimum(rounded(one, total=int(true.sum())), true).sum() / true.sum()
        for one, true in zip(estimate, counts, strict=True)
    ]
    return float(np.mean(shares))
