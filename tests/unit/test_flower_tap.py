"""The tap for Flower: what is kept is what crossed the wire, and nothing on its way is changed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedcore.errors import ConfigError, StorageError
from testbed.flower_tap import GridTap

GLOBAL = {"fc.weight": np.ones((3, 4), np.float32), "fc.bias": np.zeros(3, np.float32)}


def array_of(values: np.ndarray, *, stype: str = "numpy.ndarray") -> SimpleNamespace:
    file = io.BytesIO()
    np.save(file, values)
    return SimpleNamespace(stype=stype, data=file.getvalue())


def content_of(arrays: dict[str, Any], **records: dict[str, Any]) -> SimpleNamespace:
    """As `RecordDict` looks to a reader."""
    return SimpleNamespace(
        array_records={"arrays": arrays} if arrays else {},
        config_records={"config": records.get("config", {})},
        metric_records={"metrics": records.get("metrics", {})},
    )


def message(node: int, *, kind: str = "train", **config: int) -> SimpleNamespace:
    arrays = {name: array_of(values) for name, values in GLOBAL.items()}
    metadata = SimpleNamespace(dst_node_id=node, message_type=kind)
    return SimpleNamespace(metadata=metadata, content=content_of(arrays, config=config))


def reply(node: int, *, fails: bool = False, **options: Any) -> SimpleNamespace:
    arrays = {n: array_of(v + node, **options) for n, v in GLOBAL.items()}
    return SimpleNamespace(
        metadata=SimpleNamespace(src_node_id=node, reply_to_message_id=f"m{node}"),
        content=content_of(arrays, metrics={"num-examples": 10 * node}),
        has_error=lambda: fails,
    )


class Grid:
    """Answers with what it was made with."""

    run = "a run"

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list:
        assert timeout == 5
        assert list(messages)
        return self.replies

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        return [f"m{m.metadata.dst_node_id}" for m in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        return [r for r in self.replies if r.metadata.reply_to_message_id in set(message_ids)]


def test_what_nodes_sent_is_kept_bit_for_bit(tmp_path: Path) -> None:
    replies = [reply(2), reply(7)]
    tap = GridTap(Grid(*replies), tmp_path)
    sent = (message(node, **{"server-round": 4}) for node in (2, 7))
    assert tap.send_and_receive(sent, timeout=5) == replies
    assert tap.run == "a run"
    folder = tmp_path / "round-0004"
    for answer in replies:
        node = answer.metadata.src_node_id
        with np.load(folder / f"node-{node}.npz", allow_pickle=False) as kept:
            assert list(kept.files) == list(GLOBAL)
            for name, values in GLOBAL.items():
                np.testing.assert_array_equal(kept[name], values + node)
        archive = (folder / f"node-{node}.npz").read_bytes()
        assert all(a.data in archive for a in answer.content.array_records["arrays"].values())
        note = json.loads((folder / f"node-{node}.json").read_text())
        assert (note["round"], note["node"], note["n_examples"]) == (4, node, 10 * node)
        assert note["kind"] == "weights"
        with np.load(folder / note["weights"]) as kept:
            np.testing.assert_array_equal(kept["fc.weight"], GLOBAL["fc.weight"])
    assert len(list(folder.glob("weights-*.npz"))) == 1  # both nodes were sent the same


def test_messages_that_are_pushed_and_pulled_are_kept_too(tmp_path: Path) -> None:
    tap = GridTap(Grid(reply(1), reply(2)), tmp_path, kind="delta")
    ids = tap.push_messages([message(1), message(2)])
    assert tap.pull_messages(ids[:1]) == [tap.replies[0]]
    assert tap.pull_messages(ids[1:]) == [tap.replies[1]]
    assert sorted(p.name for p in tmp_path.rglob("node-*.npz")) == ["node-1.npz", "node-2.npz"]
    assert json.loads(next(tmp_path.rglob("node-1.json")).read_text())["kind"] == "delta"


def test_errors_and_evaluations_leave_nothing(tmp_path: Path) -> None:
    GridTap(Grid(reply(1, fails=True)), tmp_path).send_and_receive([message(1)], timeout=5)
    GridTap(Grid(reply(1)), tmp_path).send_and_receive([message(1, kind="evaluate")], timeout=5)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_kept_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'fc.weight' is kept as 'pickle'"):
        GridTap(Grid(reply(1, stype="pickle")), tmp_path).send_and_receive([message(1)], timeout=5)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="take the tap out"):
        GridTap(Grid(reply(1)), tmp_path / "file").send_and_receive([message(1)], timeout=5)


def test_flowers_own_records_are_read(tmp_path: Path) -> None:
    app = pytest.importorskip("flwr.app", reason="flwr is an extra of its own: leakwatt[flower]")

    def content(values: dict[str, np.ndarray], record: Any) -> Any:
        arrays = app.ArrayRecord({name: app.Array(v) for name, v in values.items()})
        return app.RecordDict({"arrays": arrays, "told": record})

    config = app.ConfigRecord({"server-round": 3})
    metadata = SimpleNamespace(dst_node_id=5, message_type="train")
    sent = SimpleNamespace(metadata=metadata, content=content(GLOBAL, config))
    new = {name: values - 0.5 for name, values in GLOBAL.items()}
    answer = SimpleNamespace(
        metadata=SimpleNamespace(src_node_id=5),
        content=content(new, app.MetricRecord({"num-examples": 8})),
        has_error=lambda: False,
    )
    GridTap(Grid(answer), tmp_path).send_and_receive([sent], timeout=5)
    note = json.loads((tmp_path / "round-0003" / "node-5.json").read_text())
    assert note["n_examples"] == 8
    with np.load(tmp_path / "round-0003" / "node-5.npz") as kept:
        for name, values in new.items():
            np.testing.assert_array_equal(kept[name], values)
