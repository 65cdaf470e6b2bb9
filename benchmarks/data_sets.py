"""Real data in three parts: to train on, to choose an attack's settings on, and to attack.

DATA, a folder that torchvision may write to, holds the sets as their publishers lay them out: MNIST
and Fashion-MNIST are fetched into it where they are not there; `cifar10-images/{train,test}`
(pictures, a folder per class; a sample will do), `att_faces/s1` to `s40`, `NMNIST/{Train,Test}` and
`UCI HAR Dataset` must lie there already. What is sorted by class is shuffled once, with a fixed
seed, so that the first victims are of all classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedcore.data.datasets import Examples, Split, dataset_of
from fedcore.plan import Choice
from fedcore.seeds import stream

__all__ = ["DATA_SETS", "FACE_SIDE", "N_EVENT_FRAMES", "DataSet", "Parts", "mnist", "parts_of"]

DataSet = Literal["mnist", "fashion-mnist", "cifar10-sample", "faces", "nmnist", "uci-har"]

N_EVENT_FRAMES = 8
FACE_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Three sets without a common example.

    Attributes:
        train: what networks learn from, and what an attacker may know of the world.
        choosing: where settings of attacks are chosen.
        victims: for scores that are reported.
    """

    train: Examples
    choosing: Examples
    victims: Examples


def parts_of(data: DataSet, root: Path) -> Parts:
    """Read a set."""
    return DATA_SETS[data](root)


def mnist(root: Path, *, split: Split) -> Examples:
    """The publisher's split of MNIST, fetched where it is not there."""
    return _fetched("mnist", root, split=split)


def _fetched(name: str, root: Path, *, split: Split) -> Examples:
    return _loaded(name, root, split=split, download=True)


def _loaded(name: str, root: Path, *, split: Split, **options: Any) -> Examples:
    return dataset_of(Choice(name=name, options=options)).load(root, split=split)


def _of_torchvision(name: str, root: Path) -> Parts:
    """The last 2,000 training images are for choosing."""
    train = _fetched(name, root, split="train")
    return Parts(
        train=train.take(np.arange(58_000)),
        choosing=train.take(np.arange(58_000, 60_000)),
        victims=_fetched(name, root, split="test"),
    )


def _of_published_split(
    name: str, folder: str, root: Path, *, n_choosing: int, **options: Any
) -> Parts:
    """The publisher's test set is attacked."""
    train, test = (
        _shuffled(_loaded(name, root / folder, split=split, **options))
        for split in ("train", "test")
    )
    return Parts(
        train=train.take(np.arange(len(train) - n_choosing)),
        choosing=train.take(np.arange(len(train) - n_choosing, len(train))),
        victims=test,
    )


def _faces(root: Path) -> Parts:
    """40 people, 10 pictures each: 7 to train on, 1 for choosing, 2 to attack."""
    faces = _loaded(
        "image-folder",
        root / "att_faces",
        split="all",
        size=(FACE_SIDE, FACE_SIDE),
        grey=True,
    )
    number = np.arange(len(faces)) % 10
    return Parts(
        train=faces.take(np.flatnonzero(number < 7)),
        choosing=_shuffled(faces.take(np.flatnonzero(number == 7))),
        victims=_shuffled(faces.take(np.flatnonzero(number > 7))),
    )


def _uci_har(root: Path) -> Parts:
    """The publisher's 9 test subjects: 6 to train on, 1 for choosing, 2 to attack."""
    windows = _loaded("uci-har", root / "UCI HAR Dataset", split="test")
    subjects = windows.subjects
    assert subjects is not None  # noqa: S101
    people = np.unique(subjects)
    train, choosing, victims = (
        _shuffled(windows.take(np.flatnonzero(np.isin(subjects, who))))
        for who in np.split(people, [6, 7])
    )
    return Parts(train=train, choosing=choosing, victims=victims)


def _shuffled(examples: Examples) -> Examples:
    return examples.take(stream(0, "shuffle").permutation(len(examples)))


DATA_SETS: dict[DataSet, Callable[[Path], Parts]] = {
    "cifar10-sample": partial(_of_published_split, "image-folder", "cifar10-images", n_choosing=50),
    "faces": _faces,
    "fashion-mnist": partial(_of_torchvision, "fashion-mnist"),
    "mnist": partial(_of_torchvision, "mnist"),
    "nmnist": partial(
        _of_published_split, "nmnist", "NMNIST", n_choosing=20, n_bins=N_EVENT_FRAMES
    ),
    "uci-har": _uci_har,
}
