"""What every registered data set promises, on real files where they are at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedcore.data.datasets import DATASETS, Examples, dataset_of
from fedcore.errors import ConfigError
from fedcore.plan import Choice

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES = {  # name -> folder beside the repository; torchvision adds the folder's name itself
    "fashion-mnist": "FashionMNIST",
    "image-folder": "cifar10-images",
    "mnist": "MNIST",
    "nmnist": "NMNIST",
    "uci-har": "UCI HAR Dataset",
}
TORCHVISION = ("cifar10", "fashion-mnist", "mnist")
KNOWN = {  # shapes and classes that the publishers state, of the test split where there is one
    "digits": ((360, 1, 8, 8), 10),
    "fashion-mnist": ((10000, 1, 28, 28), 10),
    "image-folder": ((300, 3, 32, 32), 10),
    "mnist": ((10000, 1, 28, 28), 10),
    "nmnist": ((100, 10, 2, 34, 34), 10),
    "uci-har": ((2947, 9, 128), 6),
}
every_dataset = pytest.mark.parametrize("name", DATASETS.names())


def load(name: str, tmp_path: Path) -> Examples:
    if name in TORCHVISION:
        pytest.importorskip("torchvision")
    if name == "digits":
        pytest.importorskip("sklearn")
        return dataset_of(Choice(name=name)).load(None, split="test")
    if name == "image-folder":
        pytest.importorskip("PIL")
    source = SHARED / FILES.get(name, name)
    if not source.is_dir():
        pytest.skip(f"no files of {name} beside the repository")
    if name not in TORCHVISION:
        return dataset_of(Choice(name=name)).load(source, split="test")
    copy = tmp_path / source.name / "raw"  # torchvision unpacks in place
    copy.mkdir(parents=True)
    for path in source.glob("raw/*.gz"):
        shutil.copyfile(path, copy / path.name)
    return dataset_of(Choice(name=name, options={"download": True})).load(tmp_path, split="test")


@every_dataset
def test_shapes_types_and_ranges(name: str, tmp_path: Path) -> None:
    examples = load(name, tmp_path)
    shape, n_classes = KNOWN[name]
    assert examples.inputs.shape == shape
    assert examples.inputs.dtype == np.float32
    assert examples.inputs.flags.c_contiguous
    assert examples.inputs.min() >= 0
    assert 0.5 < examples.inputs.max() <= 1
    assert examples.labels.shape == shape[:1]
    assert examples.labels.dtype == np.int64
    assert len(examples.class_names) == n_classes
    assert set(examples.labels) == set(range(n_classes))
    assert examples.subjects is None or examples.subjects.shape == shape[:1]


@every_dataset
def test_missing_files_get_one_clear_line(name: str, tmp_path: Path) -> None:
    if name == "digits":
        pytest.skip("bundled")
    dataset = dataset_of(Choice(name=name))
    for root in (None, tmp_path / "absent"):
        with pytest.raises(ConfigError, match=f"data set '{name}'"):
            dataset.load(root, split="all")
    if name in TORCHVISION:
        pytest.importorskip("torchvision")
    with pytest.raises(ConfigError, match=f"data set '{name}'") as caught:
        dataset.load(tmp_path, split="all")
    assert "\n" not in str(caught.value)


@every_dataset
def test_unknown_options_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"dataset '{name}': unknown key 'colour'"):
        dataset_of(Choice(name=name, options={"colour": 1}))
