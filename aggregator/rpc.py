"""The gRPC face: reads messages, calls the server, answers. Nothing is decided here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from aggregator.server import Aggregator
from aggregator.sessions import (
    HeartbeatReply,
    RoundClosed,
    RoundStart,
    ServerMessage,
    Session,
    Welcome,
)
from aggregator.tap import Capture, RunOver, TapEvent
from fedcore.errors import ConfigError, FedcoreError, HandshakeError, Refusal, UpdateError
from fedcore.identity import Identity, Role
from fedcore.wire.blobs import MESSAGE_BYTES, Chunk, Piece
from fedcore.wire.channel import CertFiles, channel_options, peer_identity
from fedcore.wire.messages import (
    PROTOCOL,
    UploadHeader,
    header_from_proto,
    header_to_proto,
    hello_from_proto,
    report_from_proto,
    ticket_to_proto,
)
from fedcore.wire.parts import Part, part_from_bytes
from fedcore.wire.status import status_of
from protos.v1 import rounds_pb2, rounds_pb2_grpc, tap_pb2, tap_pb2_grpc

__all__ = ["FederationServicer", "TapServicer", "start_server"]

_MAX_DETAILS = 1000
_LAST_CURSOR = 2**63 - 1  # the store's largest number
_PACKAGES = ("leakwatt", "numpy", "grpcio", "protobuf")

Context = grpc.aio.ServicerContext[Any, Any]


async def start_server(
    aggregator: Aggregator, *, certs: CertFiles, listen: str
) -> tuple[grpc.aio.Server, str]:
    """Listen with mutual TLS; return the running server and the address it got.

    Args:
        aggregator: answers the calls.
        certs: of the aggregator.
        listen: HOST:PORT; port 0 takes a free one.

    Raises:
        ConfigError: no such certificate, or the address cannot be listened on.
    """
    server = grpc.aio.server(options=channel_options())
    federation = FederationServicer(aggregator)
    rounds_pb2_grpc.add_FederationServicer_to_server(federation, server)  # type: ignore[no-untyped-call]
    tap_pb2_grpc.add_TapServicer_to_server(TapServicer(aggregator), server)  # type: ignore[no-untyped-call]
    upload = grpc.stream_unary_rpc_method_handler(
        federation.Upload, part_from_bytes, rounds_pb2.UploadReceipt.SerializeToString
    )
    # Takes the place of the generated one, whose parser copies every chunk.
    server.add_registered_method_handlers(  # type: ignore[attr-defined]  # missing in the stubs
        "leakwatt.v1.Federation", {"Upload": upload}
    )
    healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in the stubs
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        port = server.add_secure_port(listen, certs.server_credentials())
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {listen!r}: {error}") from error
    await server.start()
    return server, f"{listen.rpartition(':')[0]}:{port}"


@dataclass
class _Call:
    """Who calls what, for the audit: filled in as it becomes known."""

    claimed: str
    peer: str = "nobody"


class _Answering:
    """Gives every servicer the same way to refuse."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator

    @contextlib.asynccontextmanager
    async def _refusing(self, context: Context, call: _Call) -> AsyncIterator[Identity]:
        """Hand out the peer; turn what is raised on purpose into audit row and status."""
        try:
            peer = peer_identity(context.auth_context())
            call.peer = peer.uri
            yield peer
        except FedcoreError as error:
            self._aggregator.refused(error, peer=call.peer, claimed=call.claimed)
            await context.abort(status_of(error), str(error)[:_MAX_DETAILS])


class FederationServicer(_Answering, rounds_pb2_grpc.FederationServicer):
    """What clients call."""

    async def Join(  # noqa: N802  # named by the proto
        self, request_iterator: AsyncIterator[rounds_pb2.ClientMessage], context: Context
    ) -> AsyncIterator[rounds_pb2.ServerMessage]:
        """One client's stream, for as long as it lasts."""
        async with self._refusing(context, _Call("Join")) as peer:
            session = self._aggregator.join(peer, await _read_hello(request_iterator))
            listening = asyncio.create_task(_listen(request_iterator, session))
            try:
                async for message in session.messages():
                    yield _message_to_proto(message)
            finally:
                listening.cancel()
                self._aggregator.leave(session)

    async def Upload(  # noqa: N802
        self, request_iterator: AsyncIterator[Part], context: Context
    ) -> rounds_pb2.UploadReceipt:
        """One update, acknowledged when it is in the journal."""
        call = _Call("Upload")
        async with self._refusing(context, call) as peer:
            header, first = await _read_header(request_iterator, call)
            had_it = await self._aggregator.accept(peer, header, _pieces(first, request_iterator))
            return rounds_pb2.UploadReceipt(
                ticket=ticket_to_proto(header.ticket), sha256=header.sha256, already_had_it=had_it
            )
        raise AssertionError  # the context manager has aborted the call

    async def ReportPhases(  # noqa: N802
        self, request: rounds_pb2.PhaseReport, context: Context
    ) -> rounds_pb2.PhaseReceipt:
        """What a client's round cost."""
        async with self._refusing(context, _Call(_claim(request.ticket))) as peer:
            had_it = self._aggregator.report(peer, report_from_proto(request))
            return rounds_pb2.PhaseReceipt(already_had_it=had_it)
        raise AssertionError

    async def Download(  # noqa: N802
        self, request: rounds_pb2.ArtefactRequest, context: Context
    ) -> AsyncIterator[Chunk]:
        """An artefact of a plan, in chunks."""
        async with self._refusing(context, _Call(f"Download {request.sha256:.64}")) as peer:
            async for chunk in _file_chunks(self._aggregator.artefact(peer, request.sha256)):
                yield chunk


class TapServicer(_Answering, tap_pb2_grpc.TapServicer):
    """What the attacker's role calls."""

    async def Watch(  # noqa: N802
        self, request: tap_pb2.TapRequest, context: Context
    ) -> AsyncIterator[tap_pb2.TapEvent]:
        """Accepted updates from a cursor on."""
        async with self._refusing(context, _Call("Tap.Watch")) as peer:
            peer.require(Role.ATTACKER)
            async with contextlib.aclosing(
                self._aggregator.tap.watch(min(request.cursor, _LAST_CURSOR))
            ) as events:
                async for event in events:
                    async for message in _event_to_proto(event):
                        yield message


async def _read_hello(messages: AsyncIterator[rounds_pb2.ClientMessage]) -> Any:
    async for message in messages:
        if message.WhichOneof("message") == "hello":
            return hello_from_proto(message.hello)
        break
    raise HandshakeError("the first message of Join must be a Hello")


async def _listen(messages: AsyncIterator[rounds_pb2.ClientMessage], session: Session) -> None:
    """Take heartbeats until the client's side of the stream ends."""
    try:
        async for message in messages:
            session.heard_s = time.monotonic()
            if message.WhichOneof("message") == "heartbeat":
                session.send(
                    HeartbeatReply(
                        sequence=message.heartbeat.sequence,
                        sent_wall_ns=message.heartbeat.sent_wall_ns,
                        server_wall_ns=time.time_ns(),
                    )
                )
    finally:
        session.close()


async def _read_header(
    parts: AsyncIterator[Part], call: _Call
) -> tuple[UploadHeader, Piece | None]:
    """The header, and the first piece where it came along."""
    async for header, piece in parts:
        if header is not None:
            call.claimed = _claim(header.ticket)
            return header_from_proto(header), piece
        break
    raise UpdateError(Refusal.BAD_HEADER, "the first part of an upload must hold its header")


async def _pieces(first: Piece | None, parts: AsyncIterator[Part]) -> AsyncIterator[Piece]:
    if first is not None:
        yield first
    async for header, piece in parts:
        if header is not None or piece is None:
            raise UpdateError(Refusal.CHUNK_ORDER, "only chunks may follow the header")
        yield piece


def _claim(ticket: Any) -> str:
    """A ticket as its sender wrote it, cut to what a table can hold."""
    return f"{ticket.run_id:.64}/{ticket.round}/{ticket.client_id:.64}"


async def _file_chunks(path: Path) -> AsyncIterator[Chunk]:
    """A file in messages of at most 256 KiB; a reader that stalls holds one of them."""
    with path.open("rb") as file:
        offset = 0
        while data := file.read(MESSAGE_BYTES):
            yield Chunk(offset=offset, data=data)
            offset += len(data)


def _versions() -> dict[str, str]:
    """What this side runs; leakwatt itself is missing when it runs from a checkout."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


async def _event_to_proto(event: TapEvent) -> AsyncIterator[tap_pb2.TapEvent]:
    if isinstance(event, Capture):
        header = header_to_proto(event.header)
        capture = tap_pb2.Capture(header=header, plan=event.plan)
        yield tap_pb2.TapEvent(sequence=event.sequence, capture=capture)
        async for chunk in _file_chunks(event.file):
            yield tap_pb2.TapEvent(sequence=event.sequence, chunk=chunk)
    elif isinstance(event, RunOver):
        yield tap_pb2.TapEvent(run_over=tap_pb2.RunOver(run_id=event.run_id))
    else:
        yield tap_pb2.TapEvent(all_over=tap_pb2.AllOver())


def _message_to_proto(message: ServerMessage) -> rounds_pb2.ServerMessage:
    if isinstance(message, RoundStart):
        start = rounds_pb2.RoundStart(
            plan=message.plan, weights=message.weights, attempt=message.attempt
        )
        return rounds_pb2.ServerMessage(round_start=start)
    if isinstance(message, HeartbeatReply):
        reply = rounds_pb2.HeartbeatReply(
            sequence=message.sequence,
            sent_wall_ns=message.sent_wall_ns,
            server_wall_ns=message.server_wall_ns,
        )
        return rounds_pb2.ServerMessage(heartbeat=reply)
    if isinstance(message, RoundClosed):
        closed = rounds_pb2.RoundClosed(
            run_id=message.run_id, round=message.round, accepted=message.accepted
        )
        return rounds_pb2.ServerMessage(round_closed=closed)
    if isinstance(message, Welcome):
        welcome = rounds_pb2.Welcome(
            protocol=PROTOCOL, versions=_versions(), heartbeat_s=message.heartbeat_s
        )
        return rounds_pb2.ServerMessage(welcome=welcome)
    farewell = rounds_pb2.Farewell(reason=message.reason, finished=message.finished)
    return rounds_pb2.ServerMessage(farewell=farewell)
