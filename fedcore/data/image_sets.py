"""Images: the bundled digits, torchvision's public sets, and any folder of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedcore.data.datasets import Dataset, Examples, Split, folder_of, import_package, split_folders
from fedcore.errors import ConfigError

__all__ = ["Cifar10", "Digits", "FashionMnist", "ImageFolder", "Mnist", "TorchvisionSet"]

_DIGITS_TEST = 360  # the last fifth; the publisher's own test set is all that scikit-learn ships


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """1797 handwritten digits of 8 x 8 pixels and 17 grey levels, bundled with scikit-learn.

    The test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998,
    doi:10.24432/C50P49). It has no split of its own: "test" is the last 360.
    """

    name: ClassVar[str] = "digits"

    def load(self, root: Path | None, *, split: Split) -> Examples:
        """Read the bundled file; `root` is not used."""
        del root
        sklearn = import_package("sklearn.datasets", dataset=self.name, extra="data")
        bunch = sklearn.load_digits()
        part = {
            "train": slice(None, -_DIGITS_TEST),
            "test": slice(-_DIGITS_TEST, None),
            "all": slice(None),
        }[split]
        return Examples(
            inputs=np.float32(bunch.images[part, np.newaxis] / 16),
            labels=np.asarray(bunch.target[part], dtype=np.int64),
            class_names=tuple("0123456789"),
        )


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet(Dataset):
    """A set that torchvision reads, in the folders that torchvision makes.

    Attributes:
        download: fetch missing files over the network, and unpack compressed ones into the root.
    """

    class_name: ClassVar[str]

    download: bool = False

    def load(self, root: Path | None, *, split: Split) -> Examples:
        """Read through torchvision."""
        folder = folder_of(self.name, root)
        parts = [self._read(folder, train=kind == "train") for kind in _kinds(split)]
        pixels = np.concatenate([np.asarray(part.data) for part in parts])
        labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts])
        return Examples(
            inputs=_channels_first(pixels), labels=labels, class_names=tuple(parts[0].classes)
        )

    def _read(self, folder: Path, *, train: bool) -> Any:
        torchvision = import_package("torchvision.datasets", dataset=self.name, extra="datasets")
        try:
            return getattr(torchvision, self.class_name)(
                folder, train=train, download=self.download
            )
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"data set {self.name!r}: torchvision finds no complete {self.class_name} in "
                f"{folder} ({reason}); set data.dataset.options.download = true to fetch it"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Mnist(TorchvisionSet):
    """70,000 handwritten digits, [1, 28, 28] (LeCun et al. 1998)."""

    name: ClassVar[str] = "mnist"
    class_name: ClassVar[str] = "MNIST"


@dataclass(frozen=True, kw_only=True)
class FashionMnist(TorchvisionSet):
    """70,000 pieces of clothing, [1, 28, 28] (Xiao et al. 2017, arXiv:1708.07747)."""

    name: ClassVar[str] = "fashion-mnist"
    class_name: ClassVar[str] = "FashionMNIST"


@dataclass(frozen=True, kw_only=True)
class Cifar10(TorchvisionSet):
    """60,000 photographs of ten kinds of things, [3, 32, 32] (Krizhevsky 2009).

    The publisher's files are pickles; torchvision reads only those with the published MD5.
    """

    name: ClassVar[str] = "cifar10"
    class_name: ClassVar[str] = "CIFAR10"


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Pictures in one folder per class: `<root>/<class>/*`, or `<root>/{train,test}/<class>/*`.

    Classes are numbered in the order of their names.

    Attributes:
        size: height and width that every picture is resized to; without it, all must be equal.
        grey: one channel instead of three.
    """

    name: ClassVar[str] = "image-folder"

    size: tuple[int, int] | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ConfigError(f"size must be a positive height and width; got {list(self.size)}")

    def load(self, root: Path | None, *, split: Split) -> Examples:
        """Read every picture of the split, class by class, by file name."""
        folder = folder_of(self.name, root)
        parts = [folder]
        if split != "all" or (folder / "train").is_dir() or (folder / "test").is_dir():
            parts = split_folders(folder, split, names=("train", "test"), dataset=self.name)
        classes = sorted({d.name for part in parts for d in part.iterdir() if d.is_dir()})
        files = [
            (path, label)
            for part in parts
            for label, name in enumerate(classes)
            for path in sorted((part / name).glob("*"))
            if path.suffix.lower() in _SUFFIXES
        ]
        if not files:
            raise ConfigError(f"data set {self.name!r}: no pictures in folders below {folder}")
        pictures = [self._read(path) for path, _ in files]
        for picture, (path, _) in zip(pictures, files, strict=True):
            if picture.shape != pictures[0].shape:
                raise ConfigError(
                    f"{path}: {picture.shape[0]} x {picture.shape[1]} pixels, others have "
                    f"{pictures[0].shape[0]} x {pictures[0].shape[1]}; set the option size"
                )
        return Examples(
            inputs=_channels_first(np.stack(pictures)),
            labels=np.array([label for _, label in files], dtype=np.int64),
            class_names=tuple(classes),
        )

    def _read(self, path: Path) -> np.ndarray:
        """Grey levels [height, width] or colours [height, width, 3], uint8."""
        pil = import_package("PIL.Image", dataset=self.name, extra="datasets")
        try:
            with pil.open(path) as picture:
                if picture.mode[0] in "IF":  # Pillow cuts 16 bits off at 255: all white
                    raise ConfigError(
                        f"{path}: a picture of mode {picture.mode!r}, expected 8 bits per channel; "
                        "convert it first"
                    )
                converted = picture.convert("L" if self.grey else "RGB")
        except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as error:
            raise ConfigError(f"{path}: cannot be read as a picture ({error})") from error
        if self.size is not None:
            height, width = self.size
            converted = converted.resize((width, height), pil.Resampling.BILINEAR)
        return np.asarray(converted)


_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def _kinds(split: Split) -> tuple[str, ...]:
    return ("train", "test") if split == "all" else (split,)


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    """uint8 [n, height, width] or [n, height, width, channel] to float32 [n, channel, ...]."""
    images = pixels[:, np.newaxis] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 1)
    return np.asarray(np.divide(images, 255, dtype=np.float32, order="C"))
