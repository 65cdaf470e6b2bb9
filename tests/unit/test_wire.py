"""Messages survive the wire, and a hostile one ends in a named refusal."""

import contextlib
import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.energy import (
    Boundary,
    EnergyReading,
    Evaluation,
    ModelledEnergy,
    Phase,
    PhaseRecord,
    PhaseReport,
)
from fedcore.errors import HandshakeError, Refusal, UpdateError
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training
from fedcore.tensors import pack, pack_weights, unpack, unpack_weights
from fedcore.types import Missing, Ticket
from fedcore.wire.blobs import CHUNK_BYTES, BlobReceiver, chunks
from fedcore.wire.messages import (
    Hello,
    UploadHeader,
    header_from_proto,
    header_to_proto,
    hello_from_proto,
    hello_to_proto,
    plan_from_bytes,
    plan_to_bytes,
    report_from_proto,
    report_to_proto,
)
from protos.v1 import rounds_pb2, types_pb2

TICKET = Ticket(run_id="run-a", round=7, client_id="client-3")
SHA = hashlib.sha256(b"").hexdigest()


def report() -> PhaseReport:
    reading = EnergyReading(
        energy_j=1.5,
        uncertainty_j=0.1,
        duration_s=2.0,
        rail="VDD_IN",
        boundary=Boundary.MODULE_INPUT,
        method="integrated",
        coverage=0.9,
        n_samples=20,
        longest_gap_s=0.2,
        meter="replay",
        flags=("gap",),
    )
    modelled = ModelledEnergy(
        energy_j=1.0, low_j=0.5, high_j=2.0, model="table", inputs="0.25 CPU-s"
    )
    record = PhaseRecord(
        phase=Phase.TRAIN,
        start_mono_ns=12,
        duration_s=2.0,
        cpu_s=1.0,
        measured=(reading,),
        modelled=modelled,
    )
    bare = dataclasses.replace(
        record,
        phase=Phase.SUBMIT,
        measured=Missing(why="no sensor"),
        modelled=Missing(why="no table"),
    )
    return PhaseReport(
        ticket=TICKET,
        attempt=1,
        phases=(record, bare),
        evaluation=Evaluation(n_correct=3, n_examples=4, mean_loss=0.5),
        clock_offset_s=0.01,
        clock_uncertainty_s=0.001,
        machine_card="ab",
    )


def test_reports_survive_the_wire() -> None:
    for sent in (report(), dataclasses.replace(report(), evaluation=None)):
        message = rounds_pb2.PhaseReport.FromString(report_to_proto(sent).SerializeToString())
        assert report_from_proto(message) == sent


def test_headers_hellos_and_plans_survive_the_wire() -> None:
    header = UploadHeader(ticket=TICKET, attempt=2, plan_digest=SHA, n_bytes=10, sha256=SHA)
    assert header_from_proto(header_to_proto(header)) == header
    hello = Hello(
        client_id="client-0",
        versions={"numpy": "2"},
        backends=("torch",),
        codecs=("f32",),
        machine_card={"cpu": 1},
    )
    assert hello_from_proto(hello_to_proto(hello)) == hello
    plan = RoundPlan(
        run_id="r",
        round=0,
        experiment_digest="d",
        model=ModelSpec(),
        weights=SHA,
        encoding=EncodingSpec(),
        training=Training(),
        defences=(Choice(name="clip", options={"max_norm": 1.0}),),
    )
    data = plan_to_bytes(plan)
    assert plan_from_bytes(data) == (plan, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"run_id": 3}', b"\xff\xfe", b"[" * 9999])
def test_a_plan_of_another_version_is_refused(data: bytes) -> None:
    with pytest.raises(HandshakeError, match="does not fit this version"):
        plan_from_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "zz"},
        {"plan_digest": SHA.upper()},
        {"ticket": types_pb2.Ticket(run_id="../x", client_id="a")},
    ],
)
def test_a_hostile_header_is_refused(change: dict) -> None:
    good = {
        "ticket": types_pb2.Ticket(run_id="r", client_id="c"),
        "plan_digest": SHA,
        "sha256": SHA,
    }
    with pytest.raises(UpdateError) as caught:
        header_from_proto(types_pb2.UploadHeader(**{**good, **change}))
    assert caught.value.refusal is Refusal.BAD_HEADER


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": 99},
        {"client_id": "../../etc"},
        {"machine_card": b"[1]"},
        {"machine_card": b"{"},
        {"machine_card": b"[" * 100_000},
        {"machine_card": b'{"load": NaN}'},
        {"machine_card": b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"},
        {"codecs": ["x" * 1000]},
    ],
)
def test_a_hostile_hello_is_refused_in_one_line(change: dict) -> None:
    message = rounds_pb2.Hello(**{"protocol": 1, "client_id": "c", **change})
    with pytest.raises(HandshakeError) as caught:
        hello_from_proto(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("phase", "phase", "coffee"),
        ("phase", "duration_s", float("nan")),
        ("phase", "duration_s", -1.0),
        ("phase", "cpu_s", -1.0),
        ("reading", "energy_j", float("inf")),
        ("reading", "uncertainty_j", -0.1),
        ("reading", "duration_s", -1.0),
        ("reading", "coverage", 1.5),
        ("reading", "coverage", float("nan")),
        ("reading", "longest_gap_s", -1.0),
        ("reading", "boundary", "desk"),
        ("reading", "method", "guessed"),
        ("modelled", "energy_j", 3.0),
        ("modelled", "energy_j", float("nan")),
        ("modelled", "low_j", -1.0),
        ("modelled", "high_j", float("inf")),
        ("report", "clock_uncertainty_s", -1.0),
    ],
)
def test_a_report_with_a_hostile_number_or_name_is_refused(
    part: str, field: str, value: object
) -> None:
    message = report_to_proto(report())
    phase = message.phases[0]
    place = {
        "report": message,
        "phase": phase,
        "reading": phase.measured[0],
        "modelled": phase.modelled,
    }[part]
    setattr(place, field, value)
    with pytest.raises(UpdateError) as caught:
        report_from_proto(message)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=3 * CHUNK_BYTES // 1000), st.integers(1, 5))
def test_a_blob_arrives_whole(blob: bytes, repeat: int) -> None:
    blob = blob * repeat
    receiver = BlobReceiver(n_bytes=len(blob), sha256=hashlib.sha256(blob).hexdigest())
    for chunk in chunks(blob):
        receiver.add(chunk)
    assert b"".join(receiver.finish()) == blob


def receive(blob: bytes, parts: list[types_pb2.Chunk], *, n_bytes: int | None = None) -> None:
    size = len(blob) if n_bytes is None else n_bytes
    receiver = BlobReceiver(n_bytes=size, sha256=hashlib.sha256(blob).hexdigest())
    for part in parts:
        receiver.add(part)
    receiver.finish()


def test_each_fault_of_a_stream_has_its_name() -> None:
    blob = bytes(range(256)) * (2 * CHUNK_BYTES // 256)
    first, second = chunks(blob)
    flipped = types_pb2.Chunk(offset=second.offset, data=second.data[:-1] + b"\0")
    faults = {
        Refusal.CHUNK_ORDER: [second, first],
        Refusal.TRUNCATED: [first],
        Refusal.WRONG_HASH: [first, flipped],
    }
    for refusal, parts in faults.items():
        with pytest.raises(UpdateError) as caught:
            receive(blob, parts)
        assert caught.value.refusal is refusal
    with pytest.raises(UpdateError) as caught:
        receive(blob, [first, second], n_bytes=len(blob) - 1)
    assert caught.value.refusal is Refusal.SIZE_LIE
    with pytest.raises(UpdateError) as caught:
        receive(blob, [types_pb2.Chunk(offset=0, data=b"")])
    assert caught.value.refusal is Refusal.CHUNK_ORDER


def test_weights_survive_and_equal_tensors_give_equal_bytes() -> None:
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float32([1.5])}
    blob = pack_weights(tensors)
    assert blob == pack_weights(dict(reversed(tensors.items())))
    back = unpack_weights(blob)
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)


@given(st.binary(max_size=300))
def test_bytes_that_are_not_safetensors_are_refused_by_name(blob: bytes) -> None:
    with pytest.raises(UpdateError) as caught:
        unpack(blob)
    assert caught.value.refusal is Refusal.NOT_SAFETENSORS


@given(st.data())
def test_a_flipped_byte_never_raises_anything_but_a_refusal(data: st.DataObject) -> None:
    blob = bytearray(pack({"w": np.ones((2, 2), np.float32)}, note={"a": 1}))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UpdateError):  # any other exception fails the test
        unpack(bytes(blob))


def test_a_header_that_claims_the_moon_allocates_nothing() -> None:
    blob = (2**63).to_bytes(8, "little") + b"{}"
    with pytest.raises(UpdateError, match="the header claims"):
        unpack(blob)
    deep = json.dumps({"__metadata__": {"leakwatt": "[" * 5000}}).encode()
    with pytest.raises(UpdateError):
        unpack(len(deep).to_bytes(8, "little") + deep)
