"""Bare grpcio: the same bytes between the same processes with nothing of ours behind the calls.

Three rounds of two client processes, each a 4 kB push and a 4 kB answer per client, closed when
both answers are in. All clients are synchronous; they differ in the server and in the calls:

    threads   one bidirectional stream per client; synchronous server with a thread pool
    asyncio   one bidirectional stream per client; asyncio server
    calls     the plan pushed on one stream, the answer in a client-streaming call of its own, as
              Leakwatt does it, with the header in the same message; asyncio server

and one transfer: a client stream of 1 MiB chunks that the server puts together.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.processes import address_of, finish, start, stop
from fedcore.wire.channel import CertFiles, channel_options

__all__ = ["CLIENTS", "SMALL_VALUES", "BareServer", "open_channel", "upload"]

CLIENTS = ("client-0", "client-1")
SMALL_VALUES = 1000  # float32: 4 kB

_MODEL = bytes(4 * SMALL_VALUES)
_HEADER = bytes(200)  # about what Leakwatt's upload header takes
_CHUNK_BYTES = 1 << 20
_PLAIN_OPTIONS = [
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_receive_message_length", 4 << 20),
]


class BareServer:
    """A bare server in a process of its own.

    Args:
        kind: "asyncio" (every call) or "threads" (the bidirectional stream).
        certs: folder for mutual TLS; None for plain text.
    """

    def __init__(self, kind: str, *, certs: Path | None = None) -> None:
        self._certs = certs
        self._process = start("benchmarks.bare", "serve", kind, certs=certs)
        self.address = address_of(self._process)

    def __enter__(self) -> BareServer:
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._process)

    def rounds(self, calls: str, *, n: int) -> list[float]:
        """Durations in s of n - 1 rounds.

        Args:
            calls: "stream" or "calls", see above.
            n: rounds; the first one only starts the clock.
        """
        clients = [
            start(
                *("benchmarks.bare", "join", calls),
                certs=self._certs,
                address=self.address,
                name=name,
                n=n,
            )
            for name in CLIENTS
        ]
        starts_s = [finish(client) for client in clients]
        return [end - begin for begin, end in itertools.pairwise(starts_s[0])]


def open_channel(address: str, *, certs: Path | None, name: str) -> grpc.Channel:
    """A connected channel without anything of ours except, where wanted, the certificates."""
    if certs is None:
        channel = grpc.insecure_channel(address, options=_PLAIN_OPTIONS)
    else:
        credentials = CertFiles.of(certs, name).channel_credentials()
        channel = grpc.secure_channel(address, credentials, options=channel_options())
    grpc.channel_ready_future(channel).result(timeout=30)
    return channel


def upload(channel: grpc.Channel, blob: bytes) -> float:
    """Duration in s of one transfer in chunks."""

    def parts() -> Iterator[bytes]:
        yield len(blob).to_bytes(8, "little")
        for offset in range(0, len(blob), _CHUNK_BYTES):
            yield blob[offset : offset + _CHUNK_BYTES]

    started_s = time.perf_counter()
    answer = channel.stream_unary("/bare/Upload", None, None)(parts())
    duration_s = time.perf_counter() - started_s
    if int.from_bytes(answer, "little") != len(blob):
        raise SystemExit("the bare server lost bytes")
    return duration_s


def _join_stream(channel: grpc.Channel, *, n: int) -> Iterator[float]:
    """Echo what is pushed; say when it came."""
    outbox: queue.Queue[bytes | None] = queue.Queue()
    outbox.put(n.to_bytes(4, "little"))
    for message in channel.stream_stream("/bare/Join", None, None)(iter(outbox.get, None)):
        yield time.perf_counter()
        outbox.put(message)
    outbox.put(None)


def _join_calls(channel: grpc.Channel, *, n: int) -> Iterator[float]:
    """Answer what is pushed by a call of its own; say when it came."""
    answer = channel.unary_unary("/bare/Answer", None, None)  # one message of a client stream
    for message in channel.unary_stream("/bare/Push", None, None)(n.to_bytes(4, "little")):
        yield time.perf_counter()
        answer(_HEADER + message)


_JOINS = {"stream": _join_stream, "calls": _join_calls}


def _serve_threads(certs: Path | None) -> None:
    """Push rounds from one thread per client."""
    barrier = threading.Barrier(len(CLIENTS))

    def join(requests: Iterator[bytes], context: object) -> Iterator[bytes]:
        del context
        n = int.from_bytes(next(requests), "little")
        barrier.wait()
        for _ in range(n):
            yield _MODEL
            next(requests)
            barrier.wait()

    server = grpc.server(ThreadPoolExecutor(len(CLIENTS)), options=_PLAIN_OPTIONS)
    _listen(server, {"Join": grpc.stream_stream_rpc_method_handler(join)}, certs)
    server.start()
    server.wait_for_termination()


async def _serve_asyncio(certs: Path | None) -> None:
    """Push rounds and put transfers together on one event loop."""
    barrier = _Barrier(len(CLIENTS))
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def join(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        del context
        n = int.from_bytes(await anext(aiter(requests)), "little")
        await barrier.wait()
        for _ in range(n):
            yield _MODEL
            await anext(aiter(requests))
            await barrier.wait()

    async def push(request: bytes, context: object) -> AsyncIterator[bytes]:
        del context
        await barrier.wait()
        for _ in range(int.from_bytes(request, "little")):
            yield _MODEL
            await answers.get()
            await barrier.wait()

    async def answer(requests: AsyncIterator[bytes], context: object) -> bytes:
        del context
        answers.put_nowait(b"".join([part async for part in requests]))
        return b"thanks"

    async def put_together(requests: AsyncIterator[bytes], context: object) -> bytes:
        del context
        parts = aiter(requests)
        buffer = np.empty(int.from_bytes(await anext(parts), "little"), np.uint8)
        n_bytes = 0
        async for part in parts:
            buffer[n_bytes : n_bytes + len(part)] = np.frombuffer(part, np.uint8)
            n_bytes += len(part)
        return n_bytes.to_bytes(8, "little")

    server = grpc.aio.server(options=_PLAIN_OPTIONS)
    handlers = {
        "Join": grpc.stream_stream_rpc_method_handler(join),
        "Push": grpc.unary_stream_rpc_method_handler(push),
        "Answer": grpc.stream_unary_rpc_method_handler(answer),
        "Upload": grpc.stream_unary_rpc_method_handler(put_together),
    }
    _listen(server, handlers, certs)
    await server.start()
    await server.wait_for_termination()


class _Barrier:
    """Lets everybody go on when all have come (asyncio.Barrier is younger than Python 3.10)."""

    def __init__(self, parties: int) -> None:
        self._parties, self._here, self._event = parties, 0, asyncio.Event()

    async def wait(self) -> None:
        self._here += 1
        if self._here == self._parties:
            self._here, event, self._event = 0, self._event, asyncio.Event()
            event.set()
        else:
            await self._event.wait()


def _listen(server: Any, handlers: dict[str, Any], certs: Path | None) -> None:
    """Add the calls, take a free port, and print it."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", handlers),))
    if certs is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = CertFiles.of(certs, "aggregator").server_credentials()
        port = server.add_secure_port("127.0.0.1:0", credentials)
    print(port, flush=True)


def main() -> None:
    """Be one of the two ends."""
    parser = argparse.ArgumentParser()
    ends = parser.add_subparsers(dest="end", required=True)
    serve = ends.add_parser("serve")
    serve.add_argument("kind", choices=("asyncio", "threads"))
    join = ends.add_parser("join")
    join.add_argument("calls", choices=sorted(_JOINS))
    join.add_argument("--address", required=True)
    join.add_argument("--name", required=True)
    join.add_argument("--n", type=int, required=True)
    for end in (serve, join):
        end.add_argument("--certs", type=Path)
    args = parser.parse_args()
    if args.end == "join":
        with open_channel(args.address, certs=args.certs, name=args.name) as channel:
            print(json.dumps(list(_JOINS[args.calls](channel, n=args.n))))
    elif args.kind == "threads":
        _serve_threads(args.certs)
    else:
        asyncio.run(_serve_asyncio(args.certs))


if __name__ == "__main__":
    main()
