"""Strategies that bear some bad updates: coordinate by coordinate, or by distances.

They ignore the weights that clients claim: a claimed weight is one more thing to lie about.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aggregator.strategies.base import RoundUpdates, Strategy, in_blocks
from fedcore.errors import ConfigError

__all__ = ["Krum", "Median", "TrimmedMean"]


@dataclass(frozen=True, kw_only=True)
class Median(Strategy):
    """Coordinate-wise median (Yin et al. 2018, Definition 1)."""

    def fold(self, updates: RoundUpdates) -> dict[str, np.ndarray]:
        """The median of each coordinate; the mean of the middle two for an even number."""
        return _by_coordinate(updates, lambda block: np.median(block, axis=0))


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Strategy):
    """Coordinate-wise mean without the extremes (Yin et al. 2018, Definition 2).

    Attributes:
        trim: share of the updates that is dropped at each end, in [0, 0.5); rounded down.
    """

    trim: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.trim < 0.5:
            raise ConfigError(f"trim must lie in [0, 0.5); got {self.trim}")

    def fold(self, updates: RoundUpdates) -> dict[str, np.ndarray]:
        """The mean of what is left of each coordinate."""
        n_dropped = math.floor(self.trim * len(updates))
        kept = slice(n_dropped, len(updates) - n_dropped)
        return _by_coordinate(updates, lambda block: np.sort(block, axis=0)[kept].mean(axis=0))


@dataclass(frozen=True, kw_only=True)
class Krum(Strategy):
    """The update that lies closest to its neighbours (Blanchard et al. 2017, section 4).

    Attributes:
        n_byzantine: bad updates to bear, their f; the guarantee needs 2 f + 3 updates. With fewer
            updates than f + 3 only the nearest neighbour counts.
    """

    n_byzantine: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_byzantine < 0:
            raise ConfigError(f"n_byzantine must be >= 0; got {self.n_byzantine}")

    def fold(self, updates: RoundUpdates) -> dict[str, np.ndarray]:
        """The chosen update itself; among equals the first in client-id order."""
        n_neighbours = max(1, len(updates) - self.n_byzantine - 2)
        distances = np.sort(_squared_distances(updates), axis=1)[:, 1 : 1 + n_neighbours]
        chosen = int(np.argmin(distances.sum(axis=1)))
        for index, direction in enumerate(updates.directions()):
            if index == chosen:
                return {name: direction[name].astype(np.float64) for name in updates.schema}
        raise IndexError(chosen)


def _by_coordinate(
    updates: RoundUpdates, reduce: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """Reduce [client, value] blocks to one value each, and give them the weights' shapes."""
    with in_blocks(updates) as blocks:
        flat = np.concatenate([reduce(block) for block in blocks])
    sizes = [math.prod(shape) for shape in updates.schema.values()]
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return {
        name: part.reshape(shape)
        for (name, shape), part in zip(updates.schema.items(), parts, strict=True)
    }


def _squared_distances(updates: RoundUpdates) -> np.ndarray:
    """Between every two updates, [client, client]; by differences, which do not cancel."""
    distances = np.zeros((len(updates), len(updates)))
    with in_blocks(updates) as blocks:
        for block in blocks:
            for row in range(len(updates) - 1):
                difference = block[row + 1 :] - block[row]
                distances[row, row + 1 :] += np.einsum("ij,ij->i", difference, difference)
    distances += distances.T.copy()
    return distances
