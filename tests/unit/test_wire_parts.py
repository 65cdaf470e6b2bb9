"""An upload's parts, made and read by hand: the oracle is protobuf."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from fedcore.types import Ticket
from fedcore.wire.blobs import CHUNK_BYTES, Piece
from fedcore.wire.messages import UploadHeader, header_to_proto
from fedcore.wire.parts import Part, Uploader, part_from_bytes, part_to_bytes
from protos.v1 import rounds_pb2, rounds_pb2_grpc, types_pb2

HEADER = UploadHeader(
    ticket=Ticket(run_id="run", round=7, client_id="client-0"),
    attempt=1,
    plan_digest="0" * 64,
    n_bytes=300,
    sha256="1" * 64,
)
HEADERS = st.builds(
    types_pb2.UploadHeader,
    attempt=st.integers(0, 2**32 - 1),
    plan_digest=st.text(max_size=200),
    n_bytes=st.integers(0, 2**64 - 1),
)
PIECES = st.builds(Piece, st.integers(0, 2**64 - 1), st.binary(max_size=300))
PARTS = st.builds(Part, st.none() | HEADERS, st.none() | PIECES)


def by_protobuf(part: Part) -> bytes:
    message = rounds_pb2.UploadPart(header=part.header)
    if part.piece is not None:
        message.chunk.SetInParent()
        message.chunk.offset, message.chunk.data = part.piece
    return message.SerializeToString()


def read_by_protobuf(message: bytes) -> Part | None:
    """What protobuf reads, or None where it refuses."""
    try:
        part = rounds_pb2.UploadPart.FromString(message)
    except DecodeError:
        return None
    return Part(
        part.header if part.HasField("header") else None,
        Piece(part.chunk.offset, part.chunk.data) if part.HasField("chunk") else None,
    )


def read(message: bytes) -> Part | None:
    try:
        return part_from_bytes(message)
    except DecodeError:
        return None


def same(a: Part | None, b: Part | None) -> bool:
    """Equal, and so are bytes and views of them; unknown fields of a header do not count."""
    if a is None or b is None:
        return a is b
    return a.piece == b.piece and a.header == b.header


@given(PARTS)
def test_parts_are_protobufs_own_bytes(part: Part) -> None:
    message = part_to_bytes(part)
    assert message == by_protobuf(part)
    assert same(part_from_bytes(message), part)


@given(st.binary(max_size=60))
def test_a_strangers_bytes_are_read_as_protobuf_reads_them(message: bytes) -> None:
    assert same(read(message), read_by_protobuf(message))


@given(PARTS, st.data())
def test_damaged_parts_are_read_as_protobuf_reads_them(part: Part, data: st.DataObject) -> None:
    message = bytearray(by_protobuf(part))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(message)))
        change = data.draw(st.sampled_from(["cut", "put", "insert", "repeat"]))
        if change == "cut":
            del message[at:]
        elif change == "insert":
            message[at:at] = data.draw(st.binary(min_size=1, max_size=3))
        elif change == "repeat":
            message += message[:at]
        elif at < len(message):
            message[at] = data.draw(st.integers(0, 255))
    assert same(read(bytes(message)), read_by_protobuf(bytes(message)))


@pytest.mark.parametrize(
    "message",
    [
        b"\x12\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x12",  # an offset beyond 64 bits
        b"\x12\xff\xff\xff\xff\x0f\x12\x01a",  # a chunk that ends beyond the message
        b"\x12\x03\x12\x05a",  # data that end beyond their chunk
        b"\x12\x06\x12\x01a\x08\x05\x00",  # data before the offset, a field 0
        b"\x12\x05\x12\x01a\x08\x05",  # data before the offset
        b"\x12\x03\x12\x01a\x12\x03\x12\x01b",  # two chunks
        b"\x12\x03\x12\x01a\x0a\x00",  # the header behind
        b"\x12\x03\x1a\x01a",  # an unknown field
        b"\x0a",
        b"\x12",
        b"",
    ],
)
def test_unusual_parts_are_read_as_protobuf_reads_them(message: bytes) -> None:
    assert same(read(message), read_by_protobuf(message))


class Receiver(rounds_pb2_grpc.FederationServicer):
    """A server made of generated code alone."""

    def Upload(self, request_iterator, context):  # noqa: N802
        del context
        self.parts = list(request_iterator)
        return rounds_pb2.UploadReceipt(sha256="2" * 64)


@pytest.mark.parametrize("n_bytes", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_generated_code_reads_an_upload(n_bytes: int) -> None:
    receiver, blob = Receiver(), bytes(range(256)) * (n_bytes // 256) + bytes(n_bytes % 256)
    server = grpc.server(ThreadPoolExecutor(1))
    rounds_pb2_grpc.add_FederationServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            receipt = Uploader(channel).upload(HEADER, blob, timeout_s=10)
    finally:
        server.stop(0)
    assert receipt.sha256 == "2" * 64
    assert [part.HasField("header") for part in receiver.parts] == [
        n == 0 for n in range(max(1, -(-n_bytes // CHUNK_BYTES)))
    ]
    assert receiver.parts[0].header == header_to_proto(HEADER)
    assert b"".join(part.chunk.data for part in receiver.parts) == blob
    offsets = [part.chunk.offset for part in receiver.parts]
    assert offsets == [n * CHUNK_BYTES for n in range(len(offsets))]
