"""All that the readout's gradient says about the examples of one update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attacker.peeling.features import decode_trains, mean_features, rank_excess
from attacker.peeling.unmixing import Unmixed, unmix

__all__ = ["Readout", "peel"]

_MISFIT = 0.5  # features that deviate more from those of spikes are taken as they are
_SILENT_PER_EXAMPLE = 3  # an example silent in fewer features is taken for a chance plane


@dataclass(frozen=True, kw_only=True)
class Readout:
    """The examples, in the order of `labels`.

    Attributes:
        means: features weighted over time, [example, feature].
        trains: in {0, 1}, [example, time, feature]; None where there are none to be read.
        labels: int64 [example].
        certificate: by name, see `attacker.attacks.peeling`.
    """

    means: np.ndarray
    trains: np.ndarray | None
    labels: np.ndarray
    certificate: Mapping[str, float]


def peel(
    weight: np.ndarray,
    bias: np.ndarray,
    *,
    step_weights: np.ndarray | None,
    n_examples: int,
    labels: np.ndarray | None,
    rng: np.random.Generator,
) -> Readout:
    """Read the readout's inputs from its gradient.

    Args:
        weight: gradient in the readout's weight, [class, feature].
        bias: gradient in its bias, [class], not all zero.
        step_weights: how much each step counts in the logits, [time]; None where features are no
            spikes.
        n_examples: behind the gradient.
        labels: the true ones, int64 [example], where they are known.
        rng: for the unmixing.
    """
    certificate: dict[str, float] = {}
    if n_examples == 1:
        means = mean_features(weight, bias)[None]
        labels = np.array([bias.argmin()]) if labels is None else labels
        certificate["rank_excess"] = rank_excess(weight, bias)
    else:
        apart = unmix(weight, bias, n_examples=n_examples, rng=rng)
        if apart is not None and apart.n_silent.min() < _SILENT_PER_EXAMPLE * n_examples:
            apart = None
        certificate["unmixed"] = float(apart is not None)
        if apart is not None:
            certificate["negative_mass"] = apart.negative_mass
            means, labels = _in_order(apart, labels)
        else:
            means, labels = _mixtures(weight, bias, n_examples=n_examples, labels=labels)
    trains = None
    if (
        step_weights is not None
        and (decoded := decode_trains(means.ravel(), step_weights)) is not None
    ):
        certificate |= {"deviation": decoded.deviation, "misfit": decoded.misfit}
        if decoded.misfit < _MISFIT:
            trains = decoded.trains.reshape(-1, *means.shape).swapaxes(0, 1)
    return Readout(means=means, trains=trains, labels=labels, certificate=certificate)


def _in_order(apart: Unmixed, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels, in the order of the labels where they are known."""
    if labels is None:
        return apart.features, apart.residuals.argmin(1)
    lengths = np.linalg.norm(apart.residuals, axis=1, keepdims=True)
    scores = apart.residuals / np.maximum(lengths, 1e-300)
    order = []
    for label in labels:  # the true class alone has a negative residual
        order.append(int(scores[:, label].argmin()))
        scores[order[-1]] = np.inf
    return apart.features[order], labels


def _mixtures(
    weight: np.ndarray, bias: np.ndarray, *, n_examples: int, labels: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """For each label the ratio of its own row, in which its examples weigh most."""
    if labels is None:
        present = np.argsort(bias)[: max(1, int((bias < 0).sum()))]
        labels = np.resize(present, n_examples)
    of_all = mean_features(weight, bias)
    rows = [weight[i] / bias[i] if bias[i] != 0 else of_all for i in labels]
    return np.stack(rows).astype(np.float32), labels
