"""What strategies share: the updates of a round as they lie in the journal, and the server's step.

A strategy works in three strokes, each a pure function of its arguments:

    init(weights) -> state              once per run
    fold(updates) -> direction          per round: one change of the weights out of many, float64
    finish(weights, state, direction)   -> (new weights, new state), float32

The state is kept beside the weights after every round. Updates always come in client-id order and
are summed in float64 in that order, so that the result is the same bit by bit, whatever the order
of arrival and however often the aggregator was restarted.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from aggregator.journal import storing
from fedcore.defences.base import Defence
from fedcore.errors import ConfigError
from fedcore.plan import Choice
from fedcore.registry import Registry
from fedcore.strict import build
from fedcore.tensors import Schema
from fedcore.types import TensorMap, Update

__all__ = ["STRATEGIES", "RoundUpdates", "StoredUpdate", "Strategy", "in_blocks", "strategy_of"]

_NO_DEFENCE = Defence()
_BLOCK_VALUES = 1 << 20  # float64 values of all clients in one block: 8 MiB


@dataclass(frozen=True, kw_only=True)
class StoredUpdate:
    """One accepted update, read when it is needed."""

    client_id: str
    n_examples: int
    load: Callable[[], Update]


class RoundUpdates:
    """The accepted updates of one round, in client-id order.

    Args:
        stored: in any order.
        schema: of the weights.
        scratch: folder for a temporary file where updates are compared block by block.
        defence: whose `aggregate` sees them first.
    """

    def __init__(
        self,
        stored: Iterable[StoredUpdate],
        *,
        schema: Schema,
        scratch: Path,
        defence: Defence = _NO_DEFENCE,
    ) -> None:
        self._stored = sorted(stored, key=lambda update: update.client_id)
        self._defence = defence
        self.schema = dict(sorted(schema.items()))
        self.scratch = scratch

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def n_examples(self) -> list[int]:
        """The weight of each update."""
        return [update.n_examples for update in self._stored]

    def directions(self) -> Iterator[TensorMap]:
        """One update after the other as a change of the weights: deltas, or minus gradients.

        Only one is in memory at a time; float32.
        """
        return self._defence.aggregate(self._accepted())

    def _accepted(self) -> Iterator[TensorMap]:
        for stored in self._stored:
            update = stored.load()
            if update.kind == "delta":
                yield update.tensors
            else:
                yield {name: np.negative(tensor) for name, tensor in update.tensors.items()}


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """A strategy; the fields of a subclass are its options.

    Attributes:
        learning_rate: of the server: the direction's factor; 1 applies mean deltas as they are.
    """

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be > 0; got {self.learning_rate}")

    def init(self, weights: TensorMap) -> dict[str, np.ndarray]:
        """State before the first round, float32 by name; most strategies have none."""
        del weights
        return {}

    @abstractmethod
    def fold(self, updates: RoundUpdates) -> dict[str, np.ndarray]:
        """One direction out of at least one update: float64 in the shapes of the weights."""

    def finish(
        self, weights: TensorMap, state: TensorMap, direction: TensorMap
    ) -> tuple[dict[str, np.ndarray], TensorMap]:
        """New weights and state, float32: a step of SGD along the direction."""
        new = {
            name: (tensor + self.learning_rate * direction[name]).astype(np.float32)
            for name, tensor in weights.items()
        }
        return new, state


STRATEGIES: Registry[type[Strategy]] = Registry(
    "strategy",
    {
        "fedadam": "aggregator.strategies.means:FedAdam",
        "fedavg": "aggregator.strategies.means:FedAvg",
        "fedprox": "aggregator.strategies.means:FedProx",
        "fedsgd": "aggregator.strategies.means:FedSgd",
        "krum": "aggregator.strategies.robust:Krum",
        "median": "aggregator.strategies.robust:Median",
        "trimmed-mean": "aggregator.strategies.robust:TrimmedMean",
    },
)


def strategy_of(choice: Choice) -> Strategy:
    """The strategy that an arm names.

    Raises:
        ConfigError: unknown name or option.
    """
    return build(STRATEGIES, choice)


@contextlib.contextmanager
def in_blocks(updates: RoundUpdates) -> Iterator[Iterator[np.ndarray]]:
    """All updates side by side, a slice of the parameters at a time.

    Codecs do not promise that a slice can be read alone, so each update is decoded once into a
    temporary file.

    Yields:
        An iterator over blocks, float64 [client, some values], in the schema's order.

    Raises:
        StorageError: no room for the temporary file.
    """
    n_values = sum(math.prod(shape) for shape in updates.schema.values())
    with storing(updates.scratch), tempfile.TemporaryFile(dir=updates.scratch) as file:
        for direction in updates.directions():
            for name in updates.schema:
                file.write(np.ascontiguousarray(direction[name], dtype="<f4").data)
        file.flush()
        yield _blocks(file, n_clients=len(updates), n_values=n_values)


def _blocks(file: BinaryIO, *, n_clients: int, n_values: int) -> Iterator[np.ndarray]:
    step = max(1, _BLOCK_VALUES // n_clients)
    for start in range(0, n_values, step):
        size = min(step, n_values - start)
        block = np.empty((n_clients, size), dtype=np.float64)
        for client in range(n_clients):
            file.seek(4 * (client * n_values + start))
            block[client] = np.frombuffer(file.read(4 * size), dtype="<f4")
        yield block
