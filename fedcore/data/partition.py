"""Partitions: which client holds which examples.

A partition is a frozen dataclass whose fields are its options. Every example goes to exactly one
client, and every client gets at least one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from fedcore.errors import ConfigError
from fedcore.registry import Registry

__all__ = ["PARTITIONS", "ByClass", "BySubject", "Dirichlet", "Iid", "Partition"]


class Partition(ABC):
    """From labels to one list of examples per client."""

    @abstractmethod
    def split(
        self,
        labels: np.ndarray,
        subjects: np.ndarray | None,
        *,
        n_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Share out the examples.

        Args:
            labels: int64 [example].
            subjects: the person behind each example, int64 [example], or None.
            n_clients: number of shares.
            rng: the public "partition" stream.

        Returns:
            Ascending int64 indices per client: disjoint, not empty, together every example.

        Raises:
            ConfigError: this cannot be done with so many clients.
        """


@dataclass(frozen=True, kw_only=True)
class Iid(Partition):
    """Shuffled and cut into equal shares (sizes differ by one at most)."""

    def split(
        self,
        labels: np.ndarray,
        subjects: np.ndarray | None,
        *,
        n_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Share out at random."""
        shares = np.array_split(rng.permutation(len(labels)), n_clients)
        return _checked(shares, f"{len(labels)} examples")


@dataclass(frozen=True, kw_only=True)
class Dirichlet(Partition):
    """Each class is shared out by proportions drawn from Dir(alpha) over the clients.

    As in the experiments of Yurochkin et al. 2019 (arXiv:1905.12022). Small alpha: each
    class sits with few clients. Large alpha: IID. Draws that leave a client with nothing are
    repeated.

    Attributes:
        alpha: concentration, > 0.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ConfigError(f"alpha must be > 0; got {self.alpha}")

    def split(
        self,
        labels: np.ndarray,
        subjects: np.ndarray | None,
        *,
        n_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Draw until every client has something, 100 times at most."""
        for _ in range(100):
            shares = self._draw(labels, n_clients=n_clients, rng=rng)
            if all(len(share) for share in shares):
                break
        return _checked(shares, f"alpha {self.alpha} with {len(labels)} examples")

    def _draw(
        self, labels: np.ndarray, *, n_clients: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        pieces: list[list[np.ndarray]] = [[] for _ in range(n_clients)]
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            proportions = rng.dirichlet(np.full(n_clients, self.alpha))
            cuts = np.round(np.cumsum(proportions)[:-1] * len(members)).astype(np.int64)
            for mine, piece in zip(pieces, np.split(members, cuts), strict=True):
                mine.append(piece)
        return [np.concatenate(mine) for mine in pieces]


@dataclass(frozen=True, kw_only=True)
class ByClass(Partition):
    """Each client sees only some classes, dealt in turn from a shuffled deck of classes.

    The pathological non-IID case of McMahan et al. 2017 (arXiv:1602.05629, Sec. 3) with an exact
    number of classes per client; a class that several clients hold is cut into equal shares.

    Attributes:
        classes_per_client: >= 1.
    """

    classes_per_client: int = 2

    def __post_init__(self) -> None:
        if self.classes_per_client < 1:
            raise ConfigError(f"classes_per_client must be >= 1; got {self.classes_per_client}")

    def split(
        self,
        labels: np.ndarray,
        subjects: np.ndarray | None,
        *,
        n_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Deal the classes, then cut each one among its holders."""
        classes = rng.permutation(np.unique(labels))
        n_dealt = n_clients * self.classes_per_client
        if not self.classes_per_client <= len(classes) <= n_dealt:
            raise ConfigError(
                f"{n_clients} clients of {self.classes_per_client} classes cannot share "
                f"{len(classes)} classes; classes_per_client must lie in "
                f"[{-(-len(classes) // n_clients)}, {len(classes)}]"
            )
        pieces: list[list[np.ndarray]] = [[] for _ in range(n_clients)]
        for position, label in enumerate(classes):
            members = rng.permutation(np.flatnonzero(labels == label))
            cards = range(position, n_dealt, len(classes))
            for card, piece in zip(cards, np.array_split(members, len(cards)), strict=True):
                pieces[card // self.classes_per_client].append(piece)
        shares = [np.concatenate(mine) for mine in pieces]
        return _checked(shares, f"{self.classes_per_client} classes per client")


@dataclass(frozen=True, kw_only=True)
class BySubject(Partition):
    """All examples of one person stay with one client; persons are shuffled and shared equally."""

    def split(
        self,
        labels: np.ndarray,
        subjects: np.ndarray | None,
        *,
        n_clients: int,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Deal whole persons."""
        if subjects is None:
            raise ConfigError("partition 'by-subject' needs a data set with subjects (uci-har)")
        people = np.array_split(rng.permutation(np.unique(subjects)), n_clients)
        shares = [np.flatnonzero(np.isin(subjects, mine)) for mine in people]
        return _checked(shares, f"{len(np.unique(subjects))} subjects")


def _checked(shares: list[np.ndarray], what: str) -> list[np.ndarray]:
    if n_empty := sum(len(share) == 0 for share in shares):
        raise ConfigError(
            f"{what} left {n_empty} of {len(shares)} clients without data; use fewer clients or "
            "another partition"
        )
    return [np.sort(share).astype(np.int64) for share in shares]


PARTITIONS: Registry[type[Partition]] = Registry(
    "partition",
    {
        "by-class": "fedcore.data.partition:ByClass",
        "by-subject": "fedcore.data.partition:BySubject",
        "dirichlet": "fedcore.data.partition:Dirichlet",
        "iid": "fedcore.data.partition:Iid",
    },
)
