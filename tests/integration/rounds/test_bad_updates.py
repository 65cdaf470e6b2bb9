"""Every kind of bad update gets its code and its audit row, and the run completes."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping

import grpc
import numpy as np
import pytest
import safetensors.numpy

from fedcore.plan import Choice
from fedcore.types import Ticket
from fedcore.update_blob import pack_update
from fedcore.wire.blobs import Chunk, chunks

F32 = Choice(name="f32")


def blob_of(tensors: Mapping[str, np.ndarray], asked: object, **note: object) -> bytes:
    """Any blob at all with our note, made without our codecs."""
    facts = {
        "codec": "f32",
        "codec_options": {},
        "kind": "gradient",
        "n_examples": 4,
        "plan": asked.plan_digest,
        "client": "client-0",
    }
    metadata = {"leakwatt": json.dumps({**facts, **note})}
    return safetensors.numpy.save(dict(tensors), metadata=metadata)


def with_first(asked: object, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """The weights' shapes, with one tensor changed."""
    tensors = {name: np.full(t.shape, 0.1, np.float32) for name, t in asked.weights.items()}
    tensors["hidden.weight"] = change(tensors["hidden.weight"])
    return blob_of(tensors, asked)


def poisoned(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(tensor: np.ndarray) -> np.ndarray:
        tensor[1, 1] = value
        return tensor

    return change


def good(asked: object, **note: object) -> bytes:
    return blob_of(
        {n: np.zeros(t.shape, np.float32) for n, t in asked.weights.items()}, asked, **note
    )


def without(asked: object, name: str) -> bytes:
    return blob_of(
        {n: np.zeros(t.shape, np.float32) for n, t in asked.weights.items() if n != name}, asked
    )


def header_blob(header: bytes, payload: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + payload


def malicious(asked: object) -> bytes:
    """A safetensors header whose offsets reach far beyond the file."""
    table = json.loads(good(asked)[8:].split(b"}}")[0] + b"}}")
    name = next(n for n in table if n != "__metadata__")
    table[name]["data_offsets"] = [0, 2**60]
    return header_blob(json.dumps(table).encode(), b"\0" * 64)


def upload(make: Callable[[object], bytes]) -> Callable[[object, object], object]:
    return lambda peer, asked: peer.upload(asked, make(asked))


def out_of_order(peer: object, asked: object) -> object:
    blob = good(asked)
    half = len(blob) // 2
    parts = [Chunk(offset=half, data=blob[half:]), Chunk(offset=0, data=blob[:half])]
    return peer.send(peer.header(asked, blob), *parts)


def as_another(peer: object, asked: object) -> object:
    ticket = Ticket(run_id=asked.plan.run_id, round=asked.plan.round, client_id="client-1")
    return peer.upload(asked, good(asked), ticket=ticket)


def ahead(peer: object, asked: object) -> object:
    ticket = Ticket(run_id=asked.plan.run_id, round=asked.plan.round + 1, client_id="client-0")
    return peer.upload(asked, good(asked), ticket=ticket)


def watch(peer: object, asked: object) -> object:
    del asked
    return list(peer.tap.Watch(peer.tap_request, timeout=30))


# name: (what client-0 does before its honest answer, reason in the audit, gRPC status)
BAD = {
    "NaN": (upload(lambda a: with_first(a, poisoned(math.nan))), "not-finite", "INVALID_ARGUMENT"),
    "infinity": (
        upload(lambda a: with_first(a, poisoned(math.inf))),
        "not-finite",
        "INVALID_ARGUMENT",
    ),
    "wrong shape": (
        upload(lambda a: with_first(a, lambda t: t.T)),
        "wrong-shape",
        "INVALID_ARGUMENT",
    ),
    "broadcastable shape (1,)": (
        upload(lambda a: with_first(a, lambda t: t.reshape(-1)[:1])),
        "wrong-shape",
        "INVALID_ARGUMENT",
    ),
    "missing key": (
        upload(lambda a: without(a, "readout.bias")),
        "missing-tensor",
        "INVALID_ARGUMENT",
    ),
    "extra key": (
        upload(
            lambda a: blob_of(
                {
                    **{n: np.zeros(t.shape, np.float32) for n, t in a.weights.items()},
                    "x": np.zeros(1, np.float32),
                },
                a,
            )
        ),
        "extra-tensor",
        "INVALID_ARGUMENT",
    ),
    "dtype": (
        upload(lambda a: with_first(a, lambda t: t.astype(np.float64))),
        "wrong-dtype",
        "INVALID_ARGUMENT",
    ),
    "truncated": (
        lambda p, a: p.send(p.header(a, good(a)), Chunk(offset=0, data=good(a)[:-1])),
        "truncated",
        "DATA_LOSS",
    ),
    "oversize": (
        lambda p, a: p.send(p.header(a, good(a), n_bytes=10**12)),
        "oversize",
        "RESOURCE_EXHAUSTED",
    ),
    "wrong hash": (
        lambda p, a: p.upload(a, good(a), sha256=hashlib.sha256(b"other").hexdigest()),
        "wrong-hash",
        "DATA_LOSS",
    ),
    "wrong digest": (
        lambda p, a: p.upload(a, good(a), plan_digest="0" * 64),
        "wrong-plan",
        "FAILED_PRECONDITION",
    ),
    "wrong digest inside": (
        upload(lambda a: good(a, plan="0" * 64)),
        "wrong-plan",
        "FAILED_PRECONDITION",
    ),
    "a round that is not open": (ahead, "stale-round", "FAILED_PRECONDITION"),
    "negative weight": (upload(lambda a: good(a, n_examples=-1)), "bad-weight", "INVALID_ARGUMENT"),
    "huge weight": (upload(lambda a: good(a, n_examples=10**9)), "bad-weight", "INVALID_ARGUMENT"),
    "NaN weight": (
        upload(lambda a: good(a, n_examples=math.nan)),
        "bad-weight",
        "INVALID_ARGUMENT",
    ),
    "chunk out of order": (out_of_order, "chunk-order", "INVALID_ARGUMENT"),
    "header lies about the size": (
        lambda p, a: p.upload(a, good(a), n_bytes=len(good(a)) - 5),
        "size-lie",
        "INVALID_ARGUMENT",
    ),
    "zero length": (lambda p, a: p.upload(a, b""), "empty", "INVALID_ARGUMENT"),
    "not safetensors": (
        upload(lambda a: b"\x80\x04pickle" * 9),
        "not-safetensors",
        "INVALID_ARGUMENT",
    ),
    "malicious safetensors header": (upload(malicious), "not-safetensors", "INVALID_ARGUMENT"),
    "safetensors header beyond the file": (
        upload(lambda a: (2**62).to_bytes(8, "little") + good(a)[8:]),
        "not-safetensors",
        "INVALID_ARGUMENT",
    ),
    "header nested without end": (
        upload(lambda a: header_blob(b"[" * 4000)),
        "not-safetensors",
        "INVALID_ARGUMENT",
    ),
    "codec": (upload(lambda a: good(a, codec="int8")), "wrong-codec", "INVALID_ARGUMENT"),
    "an attempt never asked for": (
        lambda p, a: p.upload(a, good(a), attempt=7),
        "bad-header",
        "INVALID_ARGUMENT",
    ),
    "a report of an attempt never asked for": (
        lambda p, a: p.report(a, attempt=7),
        "bad-header",
        "INVALID_ARGUMENT",
    ),
    "no header": (lambda p, a: p.send(*chunks(good(a))), "bad-header", "INVALID_ARGUMENT"),
    "a client submitting as another": (as_another, "wrong-identity", "PERMISSION_DENIED"),
    "a client calling Tap": (watch, "identity", "PERMISSION_DENIED"),
}


def attempt(misdeed: Callable[[], object]) -> tuple[str, str]:
    """The code and the details that a misdeed gets."""
    with pytest.raises(grpc.RpcError) as refused:
        misdeed()
    return refused.value.code().name, refused.value.details()


def test_bad_updates_are_named_refused_and_do_no_harm(make_world, tools):
    world = make_world(n_clients=2, schedule={"rounds": 2, "quorum": 2})
    got: dict[str, tuple[str, str]] = {}
    accepted: dict[str, bytes] = {}

    def misbehave(client, peer, asked):
        peer.tap_request = tools["TapRequest"](cursor=0)
        if asked.plan.round == 0:
            for kind, (misdeed, _, _) in BAD.items():
                got[kind] = attempt(lambda misdeed=misdeed: misdeed(peer, asked))
            with tools["Peer"](world, "client-9") as stranger:
                got["unknown client"] = attempt(lambda: stranger.upload(asked, good(asked)))
        elif asked.plan.train:
            old = Ticket(run_id=asked.plan.run_id, round=0, client_id="client-0")
            got["duplicate"] = attempt(lambda: peer.upload(asked, good(asked), ticket=old))
            got["replay"] = attempt(lambda: peer.upload(asked, accepted["client-0"]))
            receipt = peer.upload(asked, accepted["client-0"], ticket=old)
            assert receipt.already_had_it
        if asked.plan.train:
            update = tools["honest_update"](asked, client.name)
            accepted[client.name] = pack_update(update, codec=F32, client_id=client.name)
            assert not peer.upload(asked, accepted[client.name]).already_had_it
            assert peer.upload(asked, accepted[client.name]).already_had_it
        assert not peer.report(asked).already_had_it
        assert peer.report(asked).already_had_it

    process = world.start()
    world.client("client-0", misbehave)
    world.client("client-1")
    world.finish(process)

    expected = {kind: (reason, status) for kind, (_, reason, status) in BAD.items()}
    expected["unknown client"] = ("unknown-client", "PERMISSION_DENIED")
    expected["duplicate"] = ("duplicate", "ALREADY_EXISTS")
    expected["replay"] = ("replay", "ALREADY_EXISTS")
    assert {kind: code for kind, (code, _) in got.items()} == {
        kind: status for kind, (_, status) in expected.items()
    }
    run_id = world.experiment.run_id(world.experiment.arms[0])
    with world.store() as store:
        audit = store.audit()
        assert [row.reason for row in audit] == [expected[kind][0] for kind in got]
        assert [row.message for row in audit] == [details for _, details in got.values()]
        assert {row.peer for row in audit} == {
            "leakwatt://client/client-0",
            "leakwatt://client/client-9",
        }
        assert [row.n_accepted for row in store.rounds(run_id)] == [2, 2, 0]
        kept = {u.sha256 for u in store.updates(run_id)}
        assert {file.name for file in world.run.journal.iterdir()} == kept


def test_an_update_after_its_round_is_late_and_later_it_is_stale(make_world, tools):
    """Client 1 leaves round 0 open, which then closes by quorum; it uploads in rounds 1 and 2."""
    schedule = {"rounds": 3, "quorum": 1, "wait_for_all": False}
    world = make_world(n_clients=2, schedule=schedule)
    kept: list[object] = []
    got: list[tuple[str, str]] = []
    left = threading.Event()

    def leaves(client, peer, asked):
        kept.append(asked)
        client.gone.set()
        left.set()
        raise FileNotFoundError  # leaves the stream at once

    def waits_and_looks_on(client, peer, asked):
        assert left.wait(30)
        if asked.plan.round in (1, 2):
            with tools["Peer"](world, "client-1") as late:
                got.append(attempt(lambda: late.upload(kept[0], good(kept[0], client="client-1"))))
        client.answer_honestly(peer, asked)

    process = world.start()
    world.client("client-0", waits_and_looks_on)
    world.client("client-1", leaves)
    world.finish(process)
    assert [code for code, _ in got] == ["DEADLINE_EXCEEDED", "FAILED_PRECONDITION"]
    with world.store() as store:
        audit = store.audit()
        assert [row.reason for row in audit] == ["late", "stale-round"]
        assert [row.message for row in audit] == [details for _, details in got]
        run_id = world.experiment.run_id(world.experiment.arms[0])
        assert [row.n_accepted for row in store.rounds(run_id)] == [1, 1, 1, 0]
