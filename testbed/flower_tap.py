"""A tap for Flower: keeps what every client of a deployment was sent and what it really answered.

In the server app, one line more; strategy, clients and wire stay as they are:

    grid = GridTap(grid, Path("tap"))

Arrays are kept as the bytes that Flower moved: each of its arrays is a .npy file, and an .npz file
is an archive of these. `leakwatt attack tap/round-0001/node-7.npz --model ...` reads them.

    tap/round-0001/weights-1f0c9e5a7b21.npz     what the round sent
    tap/round-0001/node-7.npz                   what node 7 answered
    tap/round-0001/node-7.json                  round, node, examples, what it is, what it answers

Nothing of Flower is imported: a grid and its messages are used as they are (flwr 1.42).
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from fedcore.errors import ConfigError, StorageError

__all__ = ["GridTap"]

_TRAIN = "train"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # equal arrays, equal files
_COUNTS = ("num-examples", "num_examples")


class GridTap:
    """A Flower grid that writes down training messages on their way, and changes none.

    Args:
        grid: as the server app gets it.
        folder: to write to; files of a round that is run again are replaced. What lies there is to
            be handled like the clients' data.
        kind: what clients of this app answer: new weights, their change, or a gradient.
    """

    def __init__(
        self,
        grid: Any,
        folder: Path,
        *,
        kind: Literal["weights", "delta", "gradient"] = "weights",
    ) -> None:
        self._grid = grid
        self._folder = folder
        self._kind = kind
        self._n_exchanges = 0
        self._open: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        """Everything else that a grid does."""
        return getattr(self._grid, name)

    def send_and_receive(
        self, messages: Iterable[Any], *, timeout: float | None = None
    ) -> list[Any]:
        """As the grid does."""
        sent = list(messages)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout))
        by_node = {message.metadata.dst_node_id: message for message in sent}
        self._keep([(by_node.get(reply.metadata.src_node_id), reply) for reply in replies])
        return replies

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        """As the grid does."""
        sent = list(messages)
        ids = list(self._grid.push_messages(sent))
        self._open |= dict(zip(ids, sent, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        """As the grid does."""
        replies = list(self._grid.pull_messages(message_ids))
        self._keep(
            [(self._open.pop(reply.metadata.reply_to_message_id, None), reply) for reply in replies]
        )
        return replies

    def _keep(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Write down messages and their answers, as far as they are of training."""
        kept = [
            (sent, reply)
            for sent, reply in pairs
            if sent is not None
            and sent.metadata.message_type.split(".")[0] == _TRAIN
            and not reply.has_error()
            and reply.content.array_records
        ]
        self._n_exchanges += bool(kept)
        for sent, reply in kept:
            try:
                self._write(sent, reply)
            except OSError as error:
                again = "go on; or take the tap out"
                raise StorageError.of(self._folder, error, then=again) from error

    def _write(self, sent: Any, reply: Any) -> None:
        round_ = _round_of(sent.content, otherwise=self._n_exchanges)
        folder = self._folder / f"round-{round_:04d}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        node = int(reply.metadata.src_node_id)
        note: dict[str, Any] = {"round": round_, "node": node, "kind": self._kind}
        count = _examples_of(reply.content)
        if count is not None:
            note["n_examples"] = count
        if sent.content.array_records:
            weights = _archive(_arrays_of(sent.content))
            note["weights"] = f"weights-{hashlib.sha256(weights).hexdigest()[:12]}.npz"
            (folder / note["weights"]).write_bytes(weights)
        update = _archive(_arrays_of(reply.content))
        note["sha256"] = hashlib.sha256(update).hexdigest()
        (folder / f"node-{node}.npz").write_bytes(update)
        (folder / f"node-{node}.json").write_text(json.dumps(note, indent=1) + "\n")


def _arrays_of(content: Any) -> Mapping[str, Any]:
    """A message's first record of arrays."""
    arrays: Mapping[str, Any] = next(iter(content.array_records.values()))
    return arrays


def _archive(arrays: Mapping[str, Any]) -> bytes:
    """Flower's own bytes, array by array, as an npz file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            if array.stype != "numpy.ndarray":
                raise ConfigError(
                    f"array {name!r} is kept as {array.stype!r}; the tap takes 'numpy.ndarray' only"
                )
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _LONG_AGO), array.data)
    return file.getvalue()


def _round_of(content: Any, *, otherwise: int) -> int:
    """The round as Flower's strategies tell their clients."""
    for record in content.config_records.values():
        if "server-round" in record:
            return int(record["server-round"])
    return otherwise


def _examples_of(content: Any) -> int | None:
    """The weight that a client declares."""
    for record in content.metric_records.values():
        for name in _COUNTS:
            if name in record:
                return int(record[name])
    return None
