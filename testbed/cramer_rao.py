"""The Cramer-Rao bound on reconstructions of an input from an update that is partly random.

Locally, every unbiased estimator of the input has at least the covariance I^-1, I being the Fisher
information of what is sent. All here is about the input values that a Jacobian was taken in; the
others count as known, which can only lower the bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedcore.defences.dp_sgd import DpSgd
from fedcore.types import Missing
from testbed.mechanism import Mechanism

__all__ = ["Bound", "Sent", "bound_behind", "inverse_diagonal"]

_ROUNDING = float(np.finfo(np.float32).eps)
_LEAST_COIN = 1e-6  # p (1 - p) below it is a value on a level, rounded in float32


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An update before its first draw, and how it moves with the input.

    Attributes:
        rows: derivative of the update in each input value, float64 [value, parameter].
        update: float64 [parameter].
        sizes: of the update's tensors, one after the other.
    """

    rows: np.ndarray
    update: np.ndarray
    sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a mechanism leaves of the input.

    Attributes:
        information: trace of the Fisher information.
        least_mse: bound on each value's squared error, [value].
    """

    information: float | Missing
    least_mse: np.ndarray


def bound_behind(
    mechanism: Mechanism, sent: Sent, *, examples: np.ndarray, owners: np.ndarray
) -> Bound | Missing:
    """The bound for one update.

    Args:
        mechanism: what happens to it.
        sent: the mean gradient, or one local step.
        examples: each example's own gradient, float64 [example, parameter].
        owners: the example of each input value, int64 [value].
    """
    if mechanism.per_example is not None:
        sent = _clipped_examples(mechanism.per_example, sent, examples=examples, owners=owners)
    sent = _clipped(sent, max_norm=mechanism.max_norm)
    if mechanism.levels:
        return _behind_rounding(sent, levels=mechanism.levels)
    gram = sent.rows @ sent.rows.T / mechanism.sigma**2
    least = inverse_diagonal(gram)
    if isinstance(least, Missing):
        return least
    return Bound(information=float(np.trace(gram)), least_mse=least)


def inverse_diagonal(gram: np.ndarray) -> np.ndarray | Missing:
    """Diagonal of the inverse of J J^T, or how many directions it does not move in.

    Args:
        gram: of rows that are exact to float32's rounding, float64 [value, value].
    """
    squares, vectors = np.linalg.eigh(gram)
    n_blind = int(np.count_nonzero(~_moves(squares)))
    if n_blind:
        return Missing(why=f"the update does not move with {n_blind} of {len(gram)} directions")
    inverse: np.ndarray = (vectors**2 / squares).sum(axis=1)
    return inverse


def _clipped(sent: Sent, *, max_norm: float) -> Sent:
    """Behind a bound on the norm: what is longer moves on a sphere, and more slowly.

    The derivative of C g / |g| is C / |g| times that of g, without its part along g.
    """
    norm = float(np.linalg.norm(sent.update))
    if norm <= max_norm:
        return sent
    along = sent.update / norm
    rows = max_norm / norm * (sent.rows - np.outer(sent.rows @ along, along))
    return replace(sent, rows=rows, update=max_norm * along)


def _clipped_examples(
    defence: DpSgd, sent: Sent, *, examples: np.ndarray, owners: np.ndarray
) -> Sent:
    """Behind DP-SGD's clipping: an input value moves its own example's gradient alone."""
    rows, update = np.empty_like(sent.rows), np.zeros_like(sent.update)
    for i, example in enumerate(examples):
        own = owners == i
        alone = replace(sent, rows=len(examples) * sent.rows[own], update=example)
        kept = _clipped(alone, max_norm=defence.max_norm)
        rows[own] = kept.rows / defence.batch_size
        update += kept.update / defence.batch_size
    return replace(sent, rows=rows, update=update)


def _behind_rounding(sent: Sent, *, levels: int) -> Bound | Missing:
    """Behind QSGD, which sends the upper of two neighbouring levels with probability p.

    Of a value the information is that of one coin, 1 / (step^2 p (1 - p)); the step follows from
    the tensor's largest value. What is sent exactly (that value, and every one on a level) is a
    constraint: with a basis U of the directions that leave it alone, the bound is
    U (U^T I U)^-1 U^T (Stoica and Ng 1998, doi:10.1109/97.700921).
    """
    n_values = len(sent.rows)
    information, exact = np.zeros((n_values, n_values)), np.zeros((n_values, n_values))
    ends = np.cumsum(sent.sizes)[:-1]
    for rows, values in zip(
        np.split(sent.rows, ends, axis=1), np.split(sent.update, ends), strict=True
    ):
        step = np.abs(values).max(initial=0.0) / levels
        place = values / max(step, np.finfo(np.float64).tiny)
        coin = (place - np.floor(place)) * (np.ceil(place) - place)  # 0 on a level
        drawn = coin > _LEAST_COIN
        information += rows[:, drawn] / (step**2 * coin[drawn]) @ rows[:, drawn].T
        exact += rows[:, ~drawn] @ rows[:, ~drawn].T
    squares, vectors = np.linalg.eigh(exact)
    free = vectors[:, ~_moves(squares)]
    inner_squares, inner = np.linalg.eigh(free.T @ information @ free)
    if not _moves(inner_squares).all():
        return Missing(why="the rounded update does not move with some direction")
    least = ((free @ inner) ** 2 / inner_squares).sum(axis=1)
    return Bound(information=Missing(why="rounding sends some values as they are"), least_mse=least)


def _moves(squares: np.ndarray) -> np.ndarray:
    """Which squared singular values are more than rounding."""
    values = np.sqrt(np.maximum(squares, 0))
    return np.asarray(values > values.max(initial=0.0) * len(values) * _ROUNDING)
