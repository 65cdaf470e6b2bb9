"""What anybody can guess without the update: noise, and the mean of images nobody trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.data.shards import read_auxiliary
from fedcore.errors import RunError
from fedcore.seeds import stream
from fedcore.types import Ticket

__all__ = ["Auxiliary", "Guess", "check_disjoint", "mean_image_guess", "noise_guesses"]

N_DRAWS = 16


@dataclass(frozen=True, kw_only=True)
class Guess:
    """An answer for one victim.

    Attributes:
        inputs: in [0, 1], float32 [batch, feature...].
        labels: int64 [batch].
    """

    inputs: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """Examples of the same distribution that no client holds.

    Attributes:
        inputs: in [0, 1], float32 [example, feature...].
        labels: int64 [example].
    """

    inputs: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Auxiliary:
        """Read the auxiliary set.

        Raises:
            ConfigError: the file is missing or damaged.
            RunError: there is no example in it.
        """
        inputs, labels = read_auxiliary(path)
        if not len(inputs):
            raise RunError(f"{path}: no auxiliary example in it, so there is no baseline")
        return cls(inputs=inputs.astype(np.float32), labels=labels.astype(np.int64))


def check_disjoint(auxiliary: Auxiliary, victims: Sequence[np.ndarray]) -> None:
    """Make sure, by content, that no victim's example helps to score against it.

    Args:
        auxiliary: the examples behind the mean image.
        victims: each [batch, feature...].

    Raises:
        RunError: an example stands on both sides.
    """
    known = {_content(example) for example in auxiliary.inputs}
    n_shared = sum(_content(example) in known for batch in victims for example in batch)
    if n_shared:
        raise RunError(
            f"{n_shared} victims' examples are also in the auxiliary set, and a baseline must not "
            "know them; take doubles out of the data set and run again, or, if its files were "
            "changed, bring back the run's own auxiliary.npz"
        )


def noise_guesses(
    seed: int, ticket: Ticket, *, shape: tuple[int, ...], n_classes: int
) -> list[Guess]:
    """Uniform pixels and labels: the same draws for the same victim in every arm."""
    rng = stream(seed, "judge", "noise", ticket.round, ticket.client_id)
    return [
        Guess(
            inputs=rng.random(shape, dtype=np.float32),
            labels=rng.integers(n_classes, size=shape[0]),
        )
        for _ in range(N_DRAWS)
    ]


def mean_image_guess(auxiliary: Auxiliary, *, batch_size: int) -> Guess:
    """The auxiliary set's mean image and most frequent label, for every example of a batch."""
    mean = auxiliary.inputs.mean(axis=0, dtype=np.float64).astype(np.float32)
    label = int(np.bincount(auxiliary.labels).argmax())
    return Guess(
        inputs=np.repeat(mean[None], batch_size, axis=0),
        labels=np.full(batch_size, label, dtype=np.int64),
    )


def _content(example: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(example, dtype=np.float32).tobytes()).digest()
