"""What anybody can guess without the update: noise, and means of images nobody trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.data.shards import read_auxiliary
from fedcore.errors import RunError
from fedcore.seeds import stream
from fedcore.types import Ticket

__all__ = [
    "Auxiliary",
    "Guess",
    "Pool",
    "check_disjoint",
    "class_mean_guess",
    "mean_image_guess",
    "noise_guesses",
]

N_DRAWS = 16


@dataclass(frozen=True, kw_only=True)
class Guess:
    """An answer for one victim.

    Attributes:
        inputs: in [0, 1], float32 [batch, feature...].
        labels: int64 [batch].
        trains: what the network is said to have received, [time, batch, feature...], or None.
    """

    inputs: np.ndarray
    labels: np.ndarray
    trains: np.ndarray | None = None


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


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Examples among which a victim's is looked for: the auxiliary ones and all victims'.

    Attributes:
        flat: every content once, float64 [example, value].
        places: content -> index into `flat`.
        gallery: the auxiliary examples, by whose classes a guess is told.
    """

    flat: np.ndarray
    places: Mapping[bytes, int]
    gallery: Auxiliary

    @classmethod
    def of(cls, auxiliary: Auxiliary, victims: Sequence[np.ndarray]) -> Pool:
        """All auxiliary examples and those of all victims, [batch, feature...] each."""
        examples = {_content(x): x for batch in (auxiliary.inputs, *victims) for x in batch}
        return cls(
            flat=np.stack([x.reshape(-1).astype(np.float64) for x in examples.values()]),
            places={content: place for place, content in enumerate(examples)},
            gallery=auxiliary,
        )

    def __len__(self) -> int:
        return len(self.flat)

    def places_of(self, inputs: np.ndarray) -> np.ndarray:
        """Where a victim's examples stand, int64 [batch]."""
        return np.array([self.places[_content(example)] for example in inputs])

    def distances(self, inputs: np.ndarray) -> np.ndarray:
        """Squared distances of guesses [batch, feature...] to everything, [batch, example]."""
        flat = inputs.reshape(len(inputs), -1).astype(np.float64)
        squares = (flat**2).sum(axis=1)[:, None] + (self.flat**2).sum(axis=1)
        distances: np.ndarray = squares - 2 * flat @ self.flat.T
        return distances

    def class_distances(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Of guesses [batch, feature...] to the nearest gallery example of each class.

        By correlation, which overlooks brightness and contrast: 1 minus that of the values.

        Args:
            inputs: the guesses.
            labels: the true classes, which are among those of the answer.

        Returns:
            In [0, 2], infinite for a class without an example, [batch, class].
        """
        apart = 1 - _standardised(inputs) @ _standardised(self.gallery.inputs).T
        n_classes = 1 + int(max(labels.max(), self.gallery.labels.max()))
        distances = np.full((len(inputs), n_classes), np.inf)
        for label in np.unique(self.gallery.labels):
            distances[:, label] = apart[:, self.gallery.labels == label].min(axis=1)
        return distances


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


def class_mean_guess(auxiliary: Auxiliary, *, labels: np.ndarray) -> Guess:
    """The mean auxiliary image of each example's *true* class: what knowing the labels is worth.

    A class without auxiliary examples gets the mean of all.

    Args:
        auxiliary: the examples.
        labels: the true ones, int64 [batch].
    """
    fallback = mean_image_guess(auxiliary, batch_size=1).inputs[0]
    means = {
        label: auxiliary.inputs[auxiliary.labels == label].mean(axis=0, dtype=np.float64)
        for label in np.unique(auxiliary.labels).tolist()
    }
    chosen = [means.get(label, fallback) for label in labels.tolist()]
    return Guess(inputs=np.stack(chosen).astype(np.float32), labels=labels)


def _standardised(inputs: np.ndarray) -> np.ndarray:
    """Each example with mean 0 and length 1, [example, value]; one without contrast is 0."""
    flat = inputs.reshape(len(inputs), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    standardised: np.ndarray = flat / np.maximum(lengths, np.finfo(np.float32).tiny)
    return standardised


def _content(example: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(example, dtype=np.float32).tobytes()).digest()
