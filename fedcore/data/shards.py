"""Shards: each client's own examples on disk, made once, read with numpy alone.

    <client's folder>/shard.npz    inputs labels eval_inputs eval_labels
    <client's folder>/card.json    what they are, and the SHA-256 of the file beside it
    auxiliary.npz                  examples that no client holds: baselines, priors, tuning

The same options and seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.config import DataConfig
from fedcore.data.datasets import Examples, dataset_of
from fedcore.data.partition import PARTITIONS
from fedcore.errors import ConfigError, StorageError
from fedcore.npz import read_npz
from fedcore.plan import Choice
from fedcore.seeds import stream
from fedcore.strict import build, canonical_json, parse

__all__ = ["Division", "Shard", "ShardCard", "divide", "prepare", "read_auxiliary", "read_shard"]


@dataclass(frozen=True, kw_only=True)
class Division:
    """Places in the data set, ascending int64; no place is in two of them.

    Attributes:
        train: per client, what it learns from.
        evaluation: per client, what it measures accuracy on.
        auxiliary: held by no client.
    """

    train: tuple[np.ndarray, ...]
    evaluation: tuple[np.ndarray, ...]
    auxiliary: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ShardCard:
    """What a shard holds.

    Attributes:
        client_id: whose it is.
        dataset: name and options.
        partition: name and options.
        seed: public root of the partition's draws.
        n_train: examples to learn from.
        n_eval: examples held out.
        label_counts: of the examples to learn from, by class name.
        input_shape: of one example.
        sha256: of shard.npz.
    """

    client_id: str
    dataset: Choice
    partition: Choice
    seed: int
    n_train: int
    n_eval: int
    label_counts: dict[str, int]
    input_shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One client's examples.

    Attributes:
        inputs: float32 in [0, 1], [example, feature...].
        labels: int64 [example].
        eval_inputs: held out, like `inputs`.
        eval_labels: like `labels`.
        card: where they come from.
    """

    inputs: np.ndarray
    labels: np.ndarray
    eval_inputs: np.ndarray
    eval_labels: np.ndarray
    card: ShardCard


def divide(examples: Examples, data: DataConfig, *, n_clients: int, seed: int) -> Division:
    """Decide who gets which example. Each draw has a stream of its own.

    First the auxiliary examples go: whole persons where subjects are known, because a person's
    neighbouring windows overlap; then the partition shares out the rest, and each client holds
    out a part of its share.

    Raises:
        ConfigError: too few examples for so many clients.
    """
    places = np.arange(len(examples))
    if 0 < data.max_examples < len(places):
        rng = stream(seed, "subsample")
        places = np.sort(rng.choice(places, data.max_examples, replace=False))
    groups = places if examples.subjects is None else examples.subjects[places]
    is_auxiliary = _draw_groups(
        groups, fraction=data.auxiliary_fraction, rng=stream(seed, "auxiliary")
    )
    rest = places[~is_auxiliary]
    shares = build(PARTITIONS, data.partition).split(
        examples.labels[rest],
        None if examples.subjects is None else examples.subjects[rest],
        n_clients=n_clients,
        rng=stream(seed, "partition"),
    )
    held_out = data.eval_fraction * len(places) / len(rest)
    rng = stream(seed, "evaluation")
    cut = [_cut(rest[share], fraction=held_out, rng=rng) for share in shares]
    return Division(
        train=tuple(train for train, _ in cut),
        evaluation=tuple(evaluation for _, evaluation in cut),
        auxiliary=places[is_auxiliary],
    )


def prepare(
    data: DataConfig,
    *,
    client_ids: Sequence[str],
    seed: int,
    client_folder: Callable[[str], Path],
    auxiliary_file: Path,
) -> list[ShardCard]:
    """Load a data set and write every client's shard and card, and the auxiliary examples.

    Args:
        data: what to load and how to share it out.
        client_ids: in the order of the partition's shares.
        seed: public root of the draws.
        client_folder: where a client's shard goes.
        auxiliary_file: where the auxiliary examples go.

    Raises:
        ConfigError: the data set or the partition refuses.
        StorageError: the disk did not take it.
    """
    examples = dataset_of(data.dataset).load(Path(data.root) if data.root else None, split="all")
    division = divide(examples, data, n_clients=len(client_ids), seed=seed)
    auxiliary = examples.take(_unlike_clients(examples.inputs, division))
    _write(auxiliary_file, _npz(inputs=auxiliary.inputs, labels=auxiliary.labels))
    cards = []
    for client_id, train, held_out in zip(
        client_ids, division.train, division.evaluation, strict=True
    ):
        labels = examples.labels[train]
        blob = _npz(
            inputs=examples.inputs[train],
            labels=labels,
            eval_inputs=examples.inputs[held_out],
            eval_labels=examples.labels[held_out],
        )
        counts = np.bincount(labels, minlength=len(examples.class_names))
        card = ShardCard(
            client_id=client_id,
            dataset=data.dataset,
            partition=data.partition,
            seed=seed,
            n_train=len(train),
            n_eval=len(held_out),
            label_counts=dict(zip(examples.class_names, counts.tolist(), strict=True)),
            input_shape=examples.inputs.shape[1:],
            sha256=hashlib.sha256(blob).hexdigest(),
        )
        _write(client_folder(client_id) / "shard.npz", blob)
        _write(client_folder(client_id) / "card.json", canonical_json(card) + b"\n")
        cards.append(card)
    return cards


def read_shard(folder: Path) -> Shard:
    """Read a client's shard and check it against its card.

    Raises:
        ConfigError: no shard there, or not the one that the card describes.
    """
    try:
        table = json.loads((folder / "card.json").read_bytes())
        blob = (folder / "shard.npz").read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: no shard ({error}); run `leakwatt data prepare`") from error
    card = parse(ShardCard, table, where=f"{folder}/card.json")
    found = hashlib.sha256(blob).hexdigest()
    if found != card.sha256:
        raise ConfigError(
            f"{folder}/shard.npz has SHA-256 {found[:12]}..., its card says {card.sha256[:12]}...; "
            "run `leakwatt data prepare` again"
        )
    arrays = _arrays(blob, folder / "shard.npz", "inputs labels eval_inputs eval_labels")
    return Shard(card=card, **arrays)


def read_auxiliary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The auxiliary inputs [example, feature...] and labels [example].

    Raises:
        ConfigError: the file is missing or damaged.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: no auxiliary examples ({error.strerror})") from error
    arrays = _arrays(blob, path, "inputs labels")
    return arrays["inputs"], arrays["labels"]


def _unlike_clients(inputs: np.ndarray, division: Division) -> np.ndarray:
    """The auxiliary places whose content no client holds: some data sets repeat examples.

    Raises:
        ConfigError: none is left.
    """
    held = {inputs[place].tobytes() for place in np.concatenate(division.train)}
    kept = [place for place in division.auxiliary if inputs[place].tobytes() not in held]
    if not kept:
        raise ConfigError(
            "every auxiliary example stands in a client's share, too; there is no baseline without "
            "disjoint data, so take a larger auxiliary_fraction or remove the doubles"
        )
    return np.array(kept)


def _draw_groups(groups: np.ndarray, *, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Mask [example] of whole groups that hold about `fraction` of all groups, at least one."""
    names = np.unique(groups)
    n_drawn = max(1, round(fraction * len(names)))
    if n_drawn >= len(names):
        raise ConfigError(f"{len(names)} examples or subjects leave none beside the auxiliary ones")
    return np.isin(groups, rng.choice(names, n_drawn, replace=False))


def _cut(
    share: np.ndarray, *, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split one client's share into what it learns from and what it holds out, one at least."""
    if len(share) < 2:
        raise ConfigError(
            f"a client got {len(share)} example, but one is needed to learn and one to evaluate; "
            "use fewer clients or another partition"
        )
    n_held_out = min(max(1, round(fraction * len(share))), len(share) - 1)
    shuffled = rng.permutation(share)
    return np.sort(shuffled[n_held_out:]), np.sort(shuffled[:n_held_out])


def _npz(**arrays: np.ndarray) -> bytes:
    """Equal arrays give equal bytes: not compressed, and numpy dates every member 1980-01-01."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes them for allow_pickle
    return buffer.getvalue()


def _arrays(blob: bytes, path: Path, names: str) -> dict[str, np.ndarray]:
    try:
        arrays = read_npz(blob)
        return {name: arrays[name] for name in names.split()}
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{path}: damaged ({error}); run `leakwatt data prepare` again"
        ) from error


def _write(path: Path, blob: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    except OSError as error:
        raise StorageError.of(path, error, then="run `leakwatt data prepare` again") from error
