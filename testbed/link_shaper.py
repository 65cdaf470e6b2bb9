"""A slow link to the aggregator: a relay of bytes that imitates a board's radio.

`python -m testbed.link_shaper --upstream FILE --address-file FILE --bandwidth-mbit-s 20 ...`
listens on loopback, writes its HOST:PORT to the address file, and passes every connection on to
the aggregator whose HOST:PORT the upstream file holds. TLS goes through unread. In each direction,
all connections together:

* bytes leave one after another at the bandwidth, and arrive one latency later;
* of packets of 1460 bytes each is lost with the probability `loss`. TCP hides that: nothing behind
  a lost packet is delivered before it came again, one round trip later (a fast retransmission),
  and its congestion window holds the rate to at most 1.22 packets per round trip and root of
  `loss` (Mathis, Semke, Mahdavi and Ott 1997, "The macroscopic behavior of the TCP congestion
  avoidance algorithm", Eq. 3 with C = sqrt(3/2)).

It needs no rights, and no packet is really dropped: what a stream suffers is imitated, not a
radio's energy, nor what its connection setup would lose. `tc qdisc ... netem` is the kernel's own
way, for whoever has the rights.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import random
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedcore.command_line import exit_on_signals
from fedcore.devices import LinkShape
from fedcore.errors import ConfigError

__all__ = ["Direction", "main", "relay"]

_PACKET_BYTES = 1460
_PIECE_BYTES = 16 * 1024
_SHORTEST_ROUND_TRIP_S = 1e-3  # of loopback, schedulers and all
_QUEUED_PIECES = 8  # beyond what is on its way; more would only be a longer buffer


@dataclass
class Direction:
    """When bytes arrive that are sent in one direction.

    Args:
        shape: of the link.
        draw: uniform in [0, 1), for losses.
    """

    shape: LinkShape
    draw: random.Random = field(default_factory=random.Random)
    _free_s: float = 0.0

    @property
    def round_trip_s(self) -> float:
        """There and back."""
        return max(_SHORTEST_ROUND_TRIP_S, 2 * self.shape.latency_ms / 1e3)

    @property
    def rate_bytes_s(self) -> float:
        """What the link and TCP's congestion window let through; infinite without limits."""
        of_link = self.shape.bandwidth_mbit_s * 1e6 / 8 or math.inf
        if not self.shape.loss:
            return of_link
        window = _PACKET_BYTES * math.sqrt(1.5 / self.shape.loss)
        return min(of_link, window / self.round_trip_s)

    @property
    def pieces_on_the_way(self) -> int:
        """How many fill the link from end to end."""
        rate = self.rate_bytes_s
        filling = 0.0 if math.isinf(rate) else rate * self.round_trip_s / _PIECE_BYTES
        return _QUEUED_PIECES + math.ceil(filling)

    def arrival_s(self, n_bytes: int, *, now_s: float) -> float:
        """When the last of these bytes arrives, if they are handed over now.

        Args:
            n_bytes: handed over.
            now_s: on any clock that does not go back.
        """
        n_packets = math.ceil(n_bytes / _PACKET_BYTES)
        n_lost = sum(self.draw.random() < self.shape.loss for _ in range(n_packets))
        start_s = max(now_s, self._free_s)
        self._free_s = start_s + n_bytes / self.rate_bytes_s + n_lost * self.round_trip_s
        return self._free_s + self.shape.latency_ms / 1e3


async def relay(shape: LinkShape, *, upstream: Path, address_file: Path) -> None:
    """Listen, say where, and pass connections on until cancelled.

    Args:
        shape: of the link.
        upstream: file with the aggregator's HOST:PORT, read for every connection.
        address_file: written.
    """
    there, back = Direction(shape), Direction(shape)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as ends:
            ends.callback(writer.close)
            host, _, port = upstream.read_text().strip().rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            ends.callback(far_writer.close)
            await _until_one_ends(
                *_pump(reader, far_writer, there), *_pump(far_reader, writer, back)
            )

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    beside = address_file.with_name(f".{address_file.name}-{os.getpid()}")
    beside.write_text(f"{host}:{port}\n")
    beside.replace(address_file)
    async with server:
        await server.serve_forever()


async def _until_one_ends(*parts: Coroutine[None, None, None]) -> None:
    """Run the parts of a connection until one of them ends, in peace or not."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()


def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
) -> tuple[Coroutine[None, None, None], Coroutine[None, None, None]]:
    """What carries one direction of one connection."""
    on_the_way = asyncio.Queue[tuple[float, bytes]](direction.pieces_on_the_way)
    return _take(reader, direction, on_the_way), _deliver(on_the_way, writer)


async def _take(
    reader: asyncio.StreamReader,
    direction: Direction,
    on_the_way: asyncio.Queue[tuple[float, bytes]],
) -> None:
    """Put every piece on its way; an empty one is the end, and leaves the delivery to end all."""
    loop, piece = asyncio.get_running_loop(), b"more"
    while piece:
        piece = await reader.read(_PIECE_BYTES)
        await on_the_way.put((direction.arrival_s(len(piece), now_s=loop.time()), piece))
    await asyncio.Event().wait()


async def _deliver(
    on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
) -> None:
    """Hand every piece over when it is due, until the end."""
    loop = asyncio.get_running_loop()
    while True:
        due_s, piece = await on_the_way.get()
        await asyncio.sleep(due_s - loop.time())
        if not piece:
            return
        writer.write(piece)
        await writer.drain()


def main(argv: Sequence[str] | None = None) -> int:
    """Relay until stopped; the exit code is 2 for a link that cannot be."""
    parser = argparse.ArgumentParser(prog="testbed.link_shaper")
    parser.add_argument("--upstream", type=Path, required=True)
    parser.add_argument("--address-file", type=Path, required=True)
    for key in ("bandwidth-mbit-s", "latency-ms", "loss"):
        parser.add_argument(f"--{key}", type=float, default=0.0)
    args = parser.parse_args(argv)
    exit_on_signals()
    try:
        shape = LinkShape(
            bandwidth_mbit_s=args.bandwidth_mbit_s, latency_ms=args.latency_ms, loss=args.loss
        )
    except ConfigError as error:
        sys.stderr.write(f"link: {error}\n")
        return error.exit_code
    asyncio.run(relay(shape, upstream=args.upstream, address_file=args.address_file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
