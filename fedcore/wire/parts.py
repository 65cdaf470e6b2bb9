"""The parts of an upload as protobuf's own bytes, made and read without copies of their data.

protobuf copies what a message holds when it is set, written, parsed and read; at 100 MB that costs
as much as the transfer. A part has one usual form, which is made and read by hand here: the header,
if any, then a chunk, if any. Every other form of the same message is left to protobuf.

    UploadPart   1: header (UploadHeader)   2: chunk (Chunk)
    Chunk        1: offset (varint)         2: data (bytes)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import grpc

from fedcore.wire.blobs import Piece, pieces
from fedcore.wire.messages import UploadHeader, header_to_proto
from protos.v1 import rounds_pb2, types_pb2

__all__ = ["Part", "Uploader", "part_from_bytes", "part_to_bytes"]

_UPLOAD = "/leakwatt.v1.Federation/Upload"
_HEADER, _CHUNK, _OFFSET, _DATA = b"\x0a", b"\x12", b"\x08", b"\x12"  # field numbers and types


class Part(NamedTuple):
    """What an `UploadPart` says."""

    header: types_pb2.UploadHeader | None = None
    piece: Piece | None = None


class Uploader:
    """Calls Upload on a channel.

    Args:
        channel: to an aggregator.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        receipt = rounds_pb2.UploadReceipt.FromString
        self._in_parts = channel.stream_unary(_UPLOAD, None, receipt)
        # On the wire this is the same call; grpcio makes it without two threads for its stream.
        self._at_once = channel.unary_unary(_UPLOAD, None, receipt)

    def upload(
        self, header: UploadHeader, blob: bytes | memoryview, *, timeout_s: float
    ) -> rounds_pb2.UploadReceipt:
        """Send an update and wait for its acknowledgement; a small one takes a single message.

        Raises:
            grpc.RpcError: it was refused, or the connection failed.
        """
        message = header_to_proto(header)
        cut = pieces(blob)
        first = part_to_bytes(Part(message, next(cut, None)))
        receipt: rounds_pb2.UploadReceipt
        if (second := next(cut, None)) is None:
            receipt = self._at_once(first, timeout=timeout_s)
        else:
            receipt = self._in_parts(_messages(first, second, cut), timeout=timeout_s)
        return receipt


def part_to_bytes(part: Part) -> bytes:
    """The bytes that protobuf makes of the same `UploadPart`."""
    prefix = b""
    data: bytes | memoryview = b""
    if part.header is not None:
        message = part.header.SerializeToString()
        prefix += _HEADER + _varint(len(message)) + message
    if part.piece is not None:
        offset, data = part.piece
        fields = _OFFSET + _varint(offset) if offset else b""
        if data:
            fields += _DATA + _varint(len(data))
        prefix += _CHUNK + _varint(len(fields) + len(data)) + fields
    return b"".join((prefix, data)) if data else prefix


def part_from_bytes(message: bytes) -> Part:
    """Read an `UploadPart`; the data are a view into the message.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    try:
        return _usual_part(message)
    except (IndexError, _UnusualError):
        part = rounds_pb2.UploadPart.FromString(message)
    return Part(
        part.header if part.HasField("header") else None,
        Piece(part.chunk.offset, part.chunk.data) if part.HasField("chunk") else None,
    )


class _UnusualError(Exception):
    """A message in another form than `part_to_bytes` gives it; protobuf may still know it."""


def _usual_part(message: bytes) -> Part:
    header, piece, at = None, None, 0
    if message[:1] == _HEADER:
        begin, at = _span(message, 1)
        header = types_pb2.UploadHeader.FromString(message[begin:at])
    if message[at : at + 1] == _CHUNK:
        begin, at = _span(message, at + 1)
        piece = _usual_piece(message, begin, at)
    if at != len(message):
        raise _UnusualError
    return Part(header, piece)


def _usual_piece(message: bytes, at: int, end: int) -> Piece:
    offset, data = 0, memoryview(message)[:0]
    if at < end and message[at : at + 1] == _OFFSET:
        offset, at = _read_varint(message, at + 1)
    if at < end and message[at : at + 1] == _DATA:
        begin, at = _span(message, at + 1)
        data = memoryview(message)[begin:at]
    if at != end:
        raise _UnusualError
    return Piece(offset, data)


def _span(message: bytes, at: int) -> tuple[int, int]:
    """Where a field with a length begins and ends."""
    n_bytes, begin = _read_varint(message, at)
    if n_bytes > len(message) - begin:
        raise _UnusualError
    return begin, begin + n_bytes


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of at most 56 bits, and where it ends."""
    value = 0
    for shift in range(0, 56, 7):
        group = message[at]
        at += 1
        value |= (group & 0x7F) << shift
        if group < 0x80:
            return value, at
    raise _UnusualError


def _messages(first: bytes, second: Piece, rest: Iterator[Piece]) -> Iterator[bytes]:
    yield first
    yield part_to_bytes(Part(piece=second))
    for piece in rest:
        yield part_to_bytes(Part(piece=piece))
