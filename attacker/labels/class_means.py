"""Counts by the mean gradient of each class in the attacker's own examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacker.labels.readout import Auxiliary, Readout

__all__ = ["ClassMeans", "class_means"]

_SWEEPS = 200
_SUM_WEIGHT = 0.1  # of "counts sum to the batch", relative to the mean squared class gradient


@dataclass(frozen=True, kw_only=True)
class ClassMeans:
    """The readout's gradient as a mixture of what each class gives on average.

    Attributes:
        slopes: mean gradient of each class, [class, row, column]: the weight's columns and, where
            the update holds it, the bias's behind them. Zeros for a class without an example.
    """

    slopes: np.ndarray

    @classmethod
    def of(cls, auxiliary: Auxiliary, *, with_bias: bool) -> ClassMeans:
        """Those of the attacker's examples."""
        n_classes = auxiliary.residuals.shape[-1]
        features = _columns(auxiliary, with_bias=with_bias)
        slopes = np.zeros((n_classes, n_classes, features.shape[-1]))
        for label in np.unique(auxiliary.labels):
            own = auxiliary.labels == label
            r, x = auxiliary.residuals[own], features[own]
            slopes[label] = np.einsum("esc,esf->cf", r, x, optimize=True) / (len(r) * r.shape[1])
        return cls(slopes=slopes)

    def matches(self, auxiliary: Auxiliary, *, with_bias: bool) -> np.ndarray:
        """Inner products of each example's gradient with each class's, [example, class]."""
        features = _columns(auxiliary, with_bias=with_bias)
        per_step = [
            np.einsum("esc,esc->es", auxiliary.residuals, features @ slope.T)
            for slope in self.slopes
        ]
        return np.stack([match.mean(axis=1) for match in per_step], axis=1)

    def match(self, readout: Readout) -> np.ndarray:
        """Inner products of an observed gradient with each class's, [class]."""
        slope = readout.weight_slope
        if readout.bias_slope is not None:
            slope = np.column_stack([slope, readout.bias_slope])
        match: np.ndarray = np.einsum("kcf,cf->k", self.slopes, slope)
        return match

    def counts(self, matches: np.ndarray, *, n_examples: int) -> np.ndarray:
        """Least squares without negative counts, by coordinate descent.

        Args:
            matches: [..., class].
            n_examples: what the counts are scaled to sum to.

        Returns:
            [..., class].
        """
        flat = self.slopes.reshape(len(self.slopes), -1)
        gram = flat @ flat.T
        there = np.flatnonzero(np.diag(gram) > 0)
        weight = _SUM_WEIGHT * float(np.diag(gram)[there].mean()) if len(there) else 0.0
        gram, right = gram + weight, matches + weight
        shares = np.zeros_like(right)
        for _ in range(_SWEEPS):
            for i in there:
                shares[..., i] += (right[..., i] - shares @ gram[i]) / gram[i, i]
                np.maximum(shares[..., i], 0, out=shares[..., i])
        total = shares.sum(axis=-1, keepdims=True)
        counts: np.ndarray = n_examples * shares / np.where(total > 0, total, 1)
        return counts


def class_means(readout: Readout) -> np.ndarray:
    """Counts whose mixture of class-mean gradients comes nearest to the observed one.

    Raises:
        KnowledgeError: auxiliary data are not granted.
    """
    with_bias = readout.bias_slope is not None
    means = ClassMeans.of(readout.need_auxiliary(), with_bias=with_bias)
    return means.counts(means.match(readout), n_examples=readout.n_examples)


def _columns(auxiliary: Auxiliary, *, with_bias: bool) -> np.ndarray:
    """Features, with a 1 behind them that stands for the bias, [example, step, column]."""
    features = auxiliary.features
    ones = np.ones((*features.shape[:2], 1), features.dtype)
    return np.concatenate([features, ones], axis=-1) if with_bias else features
