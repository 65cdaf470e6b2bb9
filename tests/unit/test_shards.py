"""Shards: nothing is in two places, the same seed gives the same bytes, damage is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.config import DataConfig
from fedcore.data.datasets import Examples
from fedcore.data.shards import divide, prepare, read_auxiliary, read_shard
from fedcore.errors import ConfigError, StorageError
from fedcore.plan import Choice
from fedcore.seeds import stream

CLIENTS = ("client-0", "client-1", "client-2", "client-3")


def examples(n: int = 500, *, subjects: int = 0) -> Examples:
    rng = stream(0, "shard test")
    return Examples(
        inputs=rng.random((n, 1, 2, 2), dtype=np.float32),
        labels=np.arange(n) % 10,
        class_names=tuple("0123456789"),
        subjects=rng.integers(1, subjects + 1, n) if subjects else None,
    )


def write(root: Path, data: DataConfig | None = None, *, seed: int = 7) -> list[bytes]:
    """Prepare digits; all bytes that were written, in a fixed order."""
    pytest.importorskip("sklearn")
    prepare(
        data or DataConfig(max_examples=200),
        client_ids=CLIENTS,
        seed=seed,
        client_folder=lambda client: root / "clients" / client,
        auxiliary_file=root / "auxiliary.npz",
    )
    return [path.read_bytes() for path in sorted(root.rglob("*.*")) if path.is_file()]


@given(
    n=st.integers(60, 300),
    max_examples=st.sampled_from([0, 50, 1000]),
    eval_fraction=st.sampled_from([0.01, 0.2, 0.45]),
    auxiliary_fraction=st.sampled_from([0.01, 0.2, 0.45]),
)
def test_every_example_is_used_in_exactly_one_place(
    n: int, max_examples: int, eval_fraction: float, auxiliary_fraction: float
) -> None:
    data = DataConfig(
        max_examples=max_examples,
        eval_fraction=eval_fraction,
        auxiliary_fraction=auxiliary_fraction,
    )
    division = divide(examples(n), data, n_clients=4, seed=1)
    everything = np.concatenate([*division.train, *division.evaluation, division.auxiliary])
    n_used = min(n, max_examples or n)
    assert len(np.unique(everything)) == len(everything) == n_used
    n_held_out = sum(map(len, division.evaluation))
    assert abs(n_held_out - eval_fraction * n_used) <= 4  # each client rounds, to one at least
    assert abs(len(division.auxiliary) - auxiliary_fraction * n_used) <= 1
    assert min(map(len, division.train)) > 0


def test_a_person_in_the_auxiliary_set_is_with_no_client() -> None:
    source = examples(subjects=12)
    assert source.subjects is not None
    data = DataConfig(partition=Choice(name="by-subject"))
    division = divide(source, data, n_clients=4, seed=1)
    people = [
        set(source.subjects[np.concatenate(part)])
        for part in zip(division.train, division.evaluation, strict=True)
    ]
    people.append(set(source.subjects[division.auxiliary]))
    assert sum(map(len, people)) == len(set.union(*people)) == 12


def test_changing_the_held_out_share_does_not_move_the_other_draws() -> None:
    """Each draw has its own stream: the same rest is partitioned the same way."""
    data = DataConfig()
    one = divide(examples(), data, n_clients=4, seed=1)
    other = divide(examples(), replace(data, eval_fraction=0.3), n_clients=4, seed=1)
    np.testing.assert_array_equal(one.auxiliary, other.auxiliary)
    for a, b in zip(
        zip(one.train, one.evaluation, strict=True),
        zip(other.train, other.evaluation, strict=True),
        strict=True,
    ):
        assert set(np.concatenate(a)) == set(np.concatenate(b))


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    first, again, other = (
        write(tmp_path / "first"),
        write(tmp_path / "again"),
        write(tmp_path / "other", seed=8),
    )
    assert len(first) == 2 * len(CLIENTS) + 1
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_a_shard_is_what_its_card_says(tmp_path: Path) -> None:
    partition = Choice(name="by-class", options={"classes_per_client": 3})
    write(tmp_path, DataConfig(partition=partition))
    n_total = len(read_auxiliary(tmp_path / "auxiliary.npz")[1])
    for client in CLIENTS:
        shard = read_shard(tmp_path / "clients" / client)
        card = shard.card
        assert (card.client_id, card.seed, card.partition) == (client, 7, partition)
        assert card.input_shape == shard.inputs.shape[1:] == (1, 8, 8)
        assert (card.n_train, card.n_eval) == (len(shard.labels), len(shard.eval_labels))
        assert len(shard.inputs) == card.n_train
        assert len(shard.eval_inputs) == card.n_eval
        assert shard.inputs.dtype == shard.eval_inputs.dtype == np.float32
        counted = {str(c): int((shard.labels == c).sum()) for c in range(10)}
        assert card.label_counts == counted
        assert sum(n > 0 for n in counted.values()) == 3
        n_total += card.n_train + card.n_eval
    assert n_total == 1797


def test_no_picture_is_with_two_parties(tmp_path: Path) -> None:
    write(tmp_path, DataConfig())
    shards = [read_shard(tmp_path / "clients" / client) for client in CLIENTS]
    parts = [p for s in shards for p in (s.inputs, s.eval_inputs)]
    parts.append(read_auxiliary(tmp_path / "auxiliary.npz")[0])
    pictures = [picture.tobytes() for part in parts for picture in part]
    assert len(pictures) == len(set(pictures)) == 1797


def test_damage_is_noticed(tmp_path: Path) -> None:
    write(tmp_path)
    folder = tmp_path / "clients" / "client-0"
    path = folder / "shard.npz"
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ConfigError, match=r"has SHA-256 .*, its card says"):
        read_shard(folder)
    path.unlink()
    with pytest.raises(ConfigError, match=r"no shard .* run `leakwatt data prepare`"):
        read_shard(folder)


@pytest.mark.parametrize("card", ["[]", "{}", "not JSON", '{"colour": 1}'])
def test_a_strange_card_is_refused(tmp_path: Path, card: str) -> None:
    write(tmp_path)
    folder = tmp_path / "clients" / "client-0"
    (folder / "card.json").write_text(card)
    with pytest.raises(ConfigError, match="client-0"):
        read_shard(folder)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "auxiliary.npz"
    with path.open("wb") as file:
        np.savez(file, inputs=np.array([{}], dtype=object), labels=np.array([0]))
    with pytest.raises(ConfigError, match="damaged"):
        read_auxiliary(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ConfigError, match="damaged"):
        read_auxiliary(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))  # one plain array
    with pytest.raises(ConfigError, match="damaged"):
        read_auxiliary(path)
    with path.open("wb") as file:
        np.savez(file, inputs=np.zeros(1), labels=np.zeros(1))
    blob = path.read_bytes()
    method = blob.index(b"PK\x01\x02") + 10  # of compression, in the first entry of the directory
    path.write_bytes(blob[:method] + b"\x4d" + blob[method + 1 :])
    with pytest.raises(ConfigError, match="damaged"):
        read_auxiliary(path)
    with pytest.raises(ConfigError, match="no auxiliary examples"):
        read_auxiliary(tmp_path / "absent.npz")


def test_too_few_examples_are_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="needed to learn and one to evaluate"):
        divide(examples(7), DataConfig(), n_clients=4, seed=0)
    with pytest.raises(ConfigError, match="leave none beside"):
        divide(examples(50, subjects=1), DataConfig(), n_clients=4, seed=0)


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=r"move the file .*data prepare` again"):
        write(tmp_path)


def test_reading_a_shard_needs_numpy_alone(tmp_path: Path) -> None:
    write(tmp_path)
    script = """
import pathlib, sys
from fedcore.data.shards import read_shard
read_shard(pathlib.Path(sys.argv[1]))
heavy = {"torch", "torchvision", "sklearn", "PIL", "matplotlib", "scipy", "safetensors"}
print(sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "clients" / "client-0")],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert json.loads(done.stdout) == []


def test_a_double_of_a_clients_example_is_no_auxiliary_one(tmp_path: Path) -> None:
    """Places are disjoint, contents need not be: the judge would refuse the whole run."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("torchvision")
    for number in range(60):
        pixels = stream(0, "pixels", number // 2).integers(0, 255, (4, 4), dtype=np.uint8)
        path = tmp_path / "pictures" / f"class-{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(path)
    options = {"grey": True}
    data = DataConfig(
        dataset=Choice(name="image-folder", options=options), root=str(tmp_path / "pictures")
    )
    prepare(
        data,
        client_ids=CLIENTS,
        seed=1,
        client_folder=lambda client: tmp_path / client,
        auxiliary_file=tmp_path / "auxiliary.npz",
    )
    held = {x.tobytes() for client in CLIENTS for x in read_shard(tmp_path / client).inputs}
    auxiliary, _ = read_auxiliary(tmp_path / "auxiliary.npz")
    assert 0 < len(auxiliary) < 12
    assert not held & {x.tobytes() for x in auxiliary}
