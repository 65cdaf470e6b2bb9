"""What is particular to each data set; slow, independent readers as oracles."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.data.datasets import Examples, dataset_of
from fedcore.data.event_sets import NMnist, event_frames, read_events
from fedcore.data.image_sets import Cifar10, Digits, ImageFolder
from fedcore.data.series_sets import UciHar
from fedcore.errors import ConfigError
from fedcore.plan import Choice

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared(folder: str) -> Path:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"no {folder} beside the repository")
    return SHARED / folder


# --- examples -----------------------------------------------------------------------------------


def examples(**change: Any) -> Examples:
    facts = {
        "inputs": np.zeros((2, 3), np.float32),
        "labels": np.array([0, 1]),
        "class_names": ("a", "b"),
    }
    return Examples(**{**facts, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.zeros((0, 3), np.float32), "labels": np.zeros(0, int)}, "no example"),
        ({"inputs": np.zeros((2, 3))}, "must be float32"),
        ({"inputs": np.full((2, 3), 2, np.float32)}, r"must lie in \[0, 1\]"),
        ({"inputs": np.full((2, 3), np.nan, np.float32)}, r"must lie in \[0, 1\]"),
        ({"labels": np.array([0, 2])}, r"labels must lie in \[0, 2\)"),
        ({"labels": np.array([0, -1])}, r"labels must lie in \[0, 2\)"),
        ({"labels": np.array([0])}, "2 inputs have labels"),
        ({"labels": np.array([0.0, 1.0])}, "labels int64"),
    ],
)
def test_wrong_examples_cannot_exist(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        examples(**change)


def test_take_keeps_what_belongs_together() -> None:
    taken = examples(subjects=np.array([7, 8])).take(np.array([1]))
    assert (taken.labels, taken.subjects) == (np.array([1]), np.array([8]))


# --- images -------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_and_split_without_overlap() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    whole = Digits().load(None, split="all")
    np.testing.assert_array_equal(whole.inputs.reshape(-1, 64) * 16, sklearn.load_digits().data)
    np.testing.assert_array_equal(whole.labels, sklearn.load_digits().target)
    parts = [Digits().load(None, split=split).inputs for split in ("train", "test")]
    np.testing.assert_array_equal(np.concatenate(parts), whole.inputs)


@pytest.mark.torch
def test_mnist_reads_the_publishers_pixels(tmp_path: Path) -> None:
    """Oracle: the IDX format, read by hand."""
    pytest.importorskip("torchvision")
    source = shared("MNIST") / "raw"
    copy = tmp_path / "MNIST" / "raw"
    copy.mkdir(parents=True)
    for path in source.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    got = dataset_of(Choice(name="mnist", options={"download": True})).load(tmp_path, split="test")
    pixels = gzip.decompress((source / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((source / "t10k-labels-idx1-ubyte.gz").read_bytes())
    _, n, height, width = struct.unpack(">4I", pixels[:16])
    assert got.inputs.shape == (n, 1, height, width)
    np.testing.assert_array_equal(np.rint(got.inputs * 255).astype(np.uint8).tobytes(), pixels[16:])
    np.testing.assert_array_equal(got.labels.astype(np.uint8).tobytes(), labels[8:])


@pytest.mark.torch
def test_cifar10_pixels_keep_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own reader on three made-up pictures in CIFAR-10's format."""
    sets = pytest.importorskip("torchvision.datasets")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / sets.CIFAR10.base_folder
    folder.mkdir()
    batch = {"data": pixels.reshape(3, -1), "labels": [2, 0, 1]}
    for name, content in (("batch", batch), ("meta", {"label_names": ["a", "b", "c"]})):
        (folder / name).write_bytes(pickle.dumps(content))
    known = [["batch", hashlib.md5((folder / "batch").read_bytes()).hexdigest()]]  # noqa: S324
    meta_md5 = hashlib.md5((folder / "meta").read_bytes()).hexdigest()  # noqa: S324
    meta = {"filename": "meta", "key": "label_names", "md5": meta_md5}
    for attribute, value in (("train_list", known), ("test_list", known), ("meta", meta)):
        monkeypatch.setattr(sets.CIFAR10, attribute, value)
    got = Cifar10().load(tmp_path, split="all")
    assert got.labels.tolist() == [2, 0, 1] * 2
    np.testing.assert_array_equal(got.inputs[3:], np.float32(pixels) / np.float32(255))


def write_pgm(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape
    path.write_bytes(f"P5 {width} {height} 255\n".encode() + pixels.astype(np.uint8).tobytes())


def test_a_folder_of_pictures_is_read_by_class_and_name(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    pixels = np.arange(6).reshape(2, 3) * 50
    for i, name in enumerate(["b/2.pgm", "b/1.pgm", "a/9.pgm"]):
        write_pgm(tmp_path / name, pixels + i)
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    got = ImageFolder(grey=True).load(tmp_path, split="all")
    assert got.class_names == ("a", "b")
    assert got.labels.tolist() == [0, 1, 1]
    expected = np.stack([pixels + 2, pixels + 1, pixels])[:, np.newaxis]
    np.testing.assert_array_equal(got.inputs, np.float32(expected) / np.float32(255))
    colour = ImageFolder().load(tmp_path, split="all").inputs
    np.testing.assert_array_equal(colour, np.repeat(got.inputs, 3, axis=1))


def test_a_folder_with_splits_is_read_split_by_split(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    for i, name in enumerate(["train/x/1.pgm", "train/y/1.pgm", "test/y/1.pgm"]):
        write_pgm(tmp_path / name, np.full((2, 2), i))
    labels = {s: ImageFolder().load(tmp_path, split=s).labels.tolist() for s in ("train", "all")}
    assert labels == {"train": [0, 1], "all": [0, 1, 1]}


def test_pictures_of_different_sizes_need_the_option(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    write_pgm(tmp_path / "a" / "1.pgm", np.full((4, 6), 90))
    write_pgm(tmp_path / "a" / "2.pgm", np.full((5, 5), 90))
    with pytest.raises(ConfigError, match=r"2\.pgm: 5 x 5 pixels, others have 4 x 6; set .* size"):
        ImageFolder().load(tmp_path, split="all")
    resized = ImageFolder(size=(3, 2), grey=True).load(tmp_path, split="all").inputs
    np.testing.assert_array_equal(resized, np.full((2, 1, 3, 2), np.float32(90) / np.float32(255)))


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ConfigError, match=r"1\.png: cannot be read as a picture"):
        ImageFolder().load(tmp_path, split="all")


@pytest.mark.parametrize(
    ("name", "blob"),
    [
        ("header.pgm", b"P5\n4=4\n255\n"),
        ("bomb.pgm", b"P5\n60000 60000\n255\n"),
        ("chunk.png", b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR") + bytes(9)),
    ],
)
def test_no_kind_of_damage_ends_in_a_traceback(tmp_path: Path, name: str, blob: bytes) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(blob)
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read as a picture"):
        ImageFolder().load(tmp_path, split="all")


def test_a_picture_of_more_than_eight_bits_is_refused_instead_of_turned_white(
    tmp_path: Path,
) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "a").mkdir()
    ramp = np.linspace(0, 65535, 16).reshape(4, 4).astype(np.uint16)
    image.fromarray(ramp).save(tmp_path / "a" / "deep.png")
    with pytest.raises(ConfigError, match=r"deep\.png: a picture of mode 'I;16', expected 8 bits"):
        ImageFolder(grey=True).load(tmp_path, split="all")


def test_faces_have_forty_people_with_ten_pictures() -> None:
    pytest.importorskip("PIL")
    got = ImageFolder(grey=True, size=(28, 23)).load(shared("att_faces"), split="all")
    assert got.inputs.shape == (400, 1, 28, 23)
    assert np.bincount(got.labels).tolist() == [10] * 40


# --- events -------------------------------------------------------------------------------------


def slow_events(blob: bytes) -> list[tuple[int, int, int, int]]:
    """(x, y, polarity, t_us), bit by bit; written from the format's description alone."""
    events, overflow_us = [], 0
    for at in range(0, len(blob), 5):
        bits = "".join(f"{byte:08b}" for byte in blob[at : at + 5])
        x, y, polarity = int(bits[:8], 2), int(bits[8:16], 2), int(bits[16])
        if y == 240:
            overflow_us += 8192
        else:
            events.append((x, y, polarity, int(bits[17:], 2) + overflow_us))
    return events


record = st.tuples(
    st.integers(0, 255),
    st.one_of(st.integers(0, 255), st.just(240)),
    st.binary(min_size=3, max_size=3),
).map(lambda r: bytes(r[:2]) + r[2])


@given(records=st.lists(record, max_size=40))
def test_events_are_read_as_the_slow_reader_reads_them(records: list[bytes]) -> None:
    blob = b"".join(records)
    assert list(zip(*read_events(blob), strict=True)) == slow_events(blob)


def test_real_events_are_read_as_the_slow_reader_reads_them() -> None:
    files = sorted(shared("NMNIST").glob("Test/*/*.bin"))[::10]
    for path in files:
        blob = path.read_bytes()
        assert list(zip(*read_events(blob), strict=True)) == slow_events(blob)


seen = st.tuples(*[st.integers(0, 33)] * 2, st.sampled_from([0, 128]), st.integers(0, 50)).map(
    lambda r: bytes((r[0], r[1], r[2], 0, r[3]))
)


@given(records=st.lists(seen, min_size=1, max_size=60), ceiling=st.sampled_from([1, 3]))
def test_frames_count_every_event_in_its_stretch_of_time(
    records: list[bytes], ceiling: int
) -> None:
    blob = b"".join(records)
    events = slow_events(blob)
    last_us = max(t for *_, t in events)
    expected = np.zeros((5, 2, 34, 34))
    for x, y, polarity, t_us in events:
        expected[t_us * 5 // (last_us + 1), polarity, y, x] += 1
    got = event_frames(read_events(blob), n_bins=5, side=34, max_count=ceiling)
    np.testing.assert_allclose(got, np.minimum(expected, ceiling) / ceiling, rtol=1e-6)


def test_odd_bytes_and_far_pixels_are_refused() -> None:
    with pytest.raises(ConfigError, match="7 bytes of events"):
        read_events(bytes(7))
    with pytest.raises(ConfigError, match=r"\(40, 3\) lies outside 34 x 34"):
        event_frames(read_events(bytes([40, 3, 0, 0, 1])), n_bins=2, side=34)
    assert not event_frames(read_events(b""), n_bins=2, side=34).any()


def test_nmnist_reads_splits_and_so_many_per_class() -> None:
    root = shared("NMNIST")
    counts = {s: len(NMnist(n_bins=2).load(root, split=s)) for s in ("train", "test", "all")}
    assert counts == {"train": 320, "test": 100, "all": 420}
    few = NMnist(n_bins=2, per_class=3).load(root, split="test")
    there = [len(list((root / "Test" / str(digit)).iterdir())) for digit in range(10)]
    assert np.bincount(few.labels).tolist() == [min(3, n) for n in there]


def test_nmnist_names_a_damaged_file(tmp_path: Path) -> None:
    folder = tmp_path / "Test" / "4"
    folder.mkdir(parents=True)
    (folder / "00001.bin").write_bytes(bytes(6))
    with pytest.raises(ConfigError, match=r"00001\.bin: 6 bytes of events"):
        NMnist().load(tmp_path, split="all")


# --- series -------------------------------------------------------------------------------------


def write_har(root: Path, part: str, signals: np.ndarray, labels: list[int]) -> None:
    """Signals [window, channel, time] in the publisher's layout."""
    folder = root / part / "Inertial Signals"
    folder.mkdir(parents=True)
    axes = [f"{kind}_{axis}" for kind in ("body_acc", "total_acc", "body_gyro") for axis in "xyz"]
    for channel, axis in enumerate(axes):
        np.savetxt(folder / f"{axis}_{part}.txt", signals[:, channel])
    np.savetxt(root / part / f"y_{part}.txt", labels, fmt="%d")
    np.savetxt(root / part / f"subject_{part}.txt", [3] * len(labels), fmt="%d")


def test_har_maps_both_units_to_zero_to_one(tmp_path: Path) -> None:
    signals = np.zeros((1, 9, 128))
    signals[0, 2] = 1.0  # g, the last axis of body acceleration
    signals[0, 6] = -3.0  # rad/s, the first of rotation
    signals[0, 7] = 100.0  # beyond the range
    write_har(tmp_path, "train", signals, [6])
    write_har(tmp_path, "test", np.zeros((2, 9, 128)), [1, 2])
    har = UciHar(acceleration_range_g=2.0, rotation_range_rad_s=6.0)
    got = har.load(tmp_path, split="all")
    assert got.inputs[0, :, 0].tolist() == [0.5, 0.5, 0.75, 0.5, 0.5, 0.5, 0.25, 1.0, 0.5]
    assert got.labels.tolist() == [5, 0, 1]
    assert got.subjects is not None
    assert got.subjects.tolist() == [3, 3, 3]
    assert len(har.load(tmp_path, split="test")) == 2


def test_har_names_what_is_missing_or_does_not_fit(tmp_path: Path) -> None:
    write_har(tmp_path, "train", np.zeros((2, 9, 128)), [1, 2])
    with pytest.raises(ConfigError, match="no folder test in"):
        UciHar().load(tmp_path, split="test")
    signal = tmp_path / "train" / "Inertial Signals" / "body_gyro_z_train.txt"
    signal.write_text("1 2 3\n")
    with pytest.raises(ConfigError, match="the signals' files differ in size"):
        UciHar().load(tmp_path, split="all")
    signal.unlink()
    with pytest.raises(ConfigError, match=r"body_gyro_z_train\.txt cannot be read"):
        UciHar().load(tmp_path, split="all")


def test_real_har_has_nine_subjects_and_gravity() -> None:
    got = UciHar().load(shared("UCI HAR Dataset"), split="test")
    assert len(np.unique(got.subjects)) == 9
    acceleration_g = (got.inputs[:, 3:6] * 2 - 1) * 2.5
    total_g = np.sqrt((acceleration_g.astype(np.float64) ** 2).sum(axis=1))
    assert abs(total_g[got.labels == 4].mean() - 1) < 0.05  # standing people feel 1 g
