"""Sets of examples. A data set is a frozen dataclass whose fields are its options.

Loading may need scikit-learn or torchvision, which are imported where they are used: choosing,
listing and checking options never imports them, and a client reads shards instead (`shards`).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Literal

import numpy as np

from fedcore.errors import ConfigError, PluginError
from fedcore.plan import Choice
from fedcore.registry import Registry
from fedcore.strict import build

__all__ = [
    "DATASETS",
    "Dataset",
    "Examples",
    "Split",
    "dataset_of",
    "folder_of",
    "import_package",
    "split_folders",
]

Split = Literal["train", "test", "all"]
"""The publisher's split; "all" joins what is there, training examples first."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Labelled examples in memory.

    Attributes:
        inputs: float32 in [0, 1]; images [example, channel, height, width], events [example, time,
            polarity, height, width], series [example, channel, time].
        labels: int64 [example], index into `class_names`.
        class_names: what the labels mean.
        subjects: the person behind each example, int64 [example], where that is known.
    """

    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    subjects: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.inputs)
        if n == 0:
            raise ConfigError("the data set holds no example")
        if self.inputs.dtype != np.float32 or self.labels.dtype != np.int64:
            raise ConfigError(
                f"inputs must be float32 and labels int64; got {self.inputs.dtype} and "
                f"{self.labels.dtype}"
            )
        if self.labels.shape != (n,) or (self.subjects is not None and len(self.subjects) != n):
            raise ConfigError(f"{n} inputs have labels of shape {self.labels.shape}")
        if not (self.inputs.min() >= 0 and self.inputs.max() <= 1):
            raise ConfigError("inputs must lie in [0, 1]")
        if not (self.labels.min() >= 0 and self.labels.max() < len(self.class_names)):
            raise ConfigError(f"labels must lie in [0, {len(self.class_names)})")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Examples:
        """The examples at these places."""
        return Examples(
            inputs=self.inputs[index],
            labels=self.labels[index],
            class_names=self.class_names,
            subjects=None if self.subjects is None else self.subjects[index],
        )


class Dataset(ABC):
    """Where examples come from.

    Attributes:
        name: as registered.
    """

    name: ClassVar[str]

    @abstractmethod
    def load(self, root: Path | None, *, split: Split) -> Examples:
        """Read the examples, in an order that never changes.

        Args:
            root: folder with the files; None for a set that is bundled.
            split: the publisher's.

        Raises:
            ConfigError: files are missing or malformed, and what to do about it.
            PluginError: a package is missing.
        """


def folder_of(dataset: str, root: Path | None) -> Path:
    """The root of a set that needs files.

    Raises:
        ConfigError: none is given, or it does not exist.
    """
    if root is None:
        raise ConfigError(f"data set {dataset!r} needs data.root, the folder that holds its files")
    if not root.is_dir():
        raise ConfigError(f"data set {dataset!r}: {root} is not a folder")
    return root


def split_folders(root: Path, split: Split, *, names: tuple[str, str], dataset: str) -> list[Path]:
    """The folders of a split below `root`; "all" takes those of the two that exist.

    Raises:
        ConfigError: there is none.
    """
    wanted = {"train": names[:1], "test": names[1:], "all": names}[split]
    found = [root / name for name in wanted if (root / name).is_dir()]
    if not found:
        raise ConfigError(f"data set {dataset!r}: no folder {' or '.join(wanted)} in {root}")
    return found


def import_package(name: str, *, dataset: str, extra: str) -> ModuleType:
    """Import a package that only loading needs.

    Raises:
        PluginError: it is not installed, and how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise PluginError(
            f"data set {dataset!r} needs the package {error.name!r}, which is not installed; "
            f"pip install 'leakwatt[{extra}]'"
        ) from error


DATASETS: Registry[type[Dataset]] = Registry(
    "dataset",
    {
        "cifar10": "fedcore.data.image_sets:Cifar10",
        "digits": "fedcore.data.image_sets:Digits",
        "fashion-mnist": "fedcore.data.image_sets:FashionMnist",
        "image-folder": "fedcore.data.image_sets:ImageFolder",
        "mnist": "fedcore.data.image_sets:Mnist",
        "nmnist": "fedcore.data.event_sets:NMnist",
        "uci-har": "fedcore.data.series_sets:UciHar",
    },
)


def dataset_of(choice: Choice) -> Dataset:
    """The data set that an experiment names.

    Raises:
        ConfigError: unknown name or option.
    """
    return build(DATASETS, choice)
