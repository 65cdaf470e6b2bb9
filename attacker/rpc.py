"""The attacker's line to the aggregator: watches the tap, and mends the connection when it breaks.

One thread listens, so that a long attack never holds the stream up. Nothing is asked for twice:
the cursor stands behind the last update that arrived whole.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import grpc

from attacker.observations import AllOver, Artefacts, Event, RunOver, Seen, observe
from fedcore.errors import ConfigError, HandshakeError, IdentityError
from fedcore.types import Ticket
from fedcore.wire.blobs import BlobReceiver, Chunk
from fedcore.wire.channel import CertFiles, channel_options
from fedcore.wire.messages import UploadHeader, header_from_proto
from fedcore.wire.status import error_of
from protos.v1 import rounds_pb2, rounds_pb2_grpc, tap_pb2, tap_pb2_grpc

__all__ = ["TapLine"]

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_TRANSFER_TIMEOUT_S = 600.0
_PATIENCE_S = 0.5
_REFUSALS = (HandshakeError, IdentityError, ConfigError)


class TapLine:
    """Use as a context manager: entering starts to listen, leaving hangs up.

    Args:
        address: returns HOST:PORT, asked anew before every connection, or None while unknown.
        certs: of the attacker.
        wants: which updates to read.
        is_over: asked while the aggregator cannot be reached; True ends the waiting, because
            everything it could say lies elsewhere.
    """

    def __init__(
        self,
        *,
        address: Callable[[], str | None],
        certs: CertFiles,
        wants: Callable[[Ticket], bool],
        is_over: Callable[[], bool],
    ) -> None:
        self._address = address
        self._credentials = certs.channel_credentials()
        self._wants = wants
        self._is_over = is_over
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tap")
        self._heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards the channel against leaving while it is opened
        self._channel: grpc.Channel | None = None
        self._cursor = 0
        self._artefacts = Artefacts(self._download)

    def __enter__(self) -> TapLine:
        self._listening = self._thread.submit(self._listen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        with self._lock:
            if self._channel is not None:
                self._channel.close()
        self._thread.shutdown()

    def events(self, *, on_wait: Callable[[], None]) -> Iterator[Event]:
        """What the tap shows; ends after `AllOver`, or without it when `is_over` ended the wait.

        An end of a run may be told more than once.

        Args:
            on_wait: called now and then while there is nothing to tell.

        Raises:
            HandshakeError: the aggregator refuses this attacker.
            UpdateError: the tap sent bytes that are not what their header says.
        """
        while True:
            try:
                event = self._heard.get(timeout=_PATIENCE_S)
            except queue.Empty:
                if self._listening.done() and self._heard.empty():
                    self._listening.result()
                    return
                on_wait()
                continue
            yield event
            if isinstance(event, AllOver):
                return

    def _listen(self) -> None:
        """The listening thread: returns when all is over, raises when refused."""
        n_failures = 0
        while not self._closing.is_set():
            cursor_before = self._cursor
            address = self._address()
            why = "its address is not known yet"
            if address is not None:
                try:
                    if self._watch(address):
                        return
                    why = "the aggregator hung up"
                except grpc.RpcError as failure:
                    error = error_of(failure)
                    if isinstance(error, _REFUSALS):
                        raise HandshakeError(f"the aggregator refuses: {error}") from failure
                    why = str(error)
            if self._is_over():
                return
            if not self._closing.is_set():
                log.warning("not at the tap", extra={"aggregator": address, "why": why})
            n_failures = 0 if self._cursor > cursor_before else n_failures + 1
            self._closing.wait(_pause_s(n_failures))

    def _watch(self, address: str) -> bool:
        """One connection from the cursor to its end; True when all is over."""
        with self._lock:
            if self._closing.is_set():
                return False
            channel = grpc.secure_channel(address, self._credentials, channel_options())
            self._channel = channel
        with channel:
            log.info("watching", extra={"aggregator": address, "cursor": self._cursor})
            stub = tap_pb2_grpc.TapStub(channel)  # type: ignore[no-untyped-call]
            update: _Incoming | None = None
            for message in stub.Watch(tap_pb2.TapRequest(cursor=self._cursor)):
                kind = message.WhichOneof("event")
                if kind == "capture":
                    update = self._begin(message)
                elif kind == "chunk" and update is not None and update.add(message.chunk):
                    self._hear(update)
                    update = None
                elif kind == "run_over":
                    self._heard.put(RunOver(run_id=message.run_over.run_id))
                elif kind == "all_over":
                    self._heard.put(AllOver())
                    return True
        return False

    def _begin(self, message: tap_pb2.TapEvent) -> _Incoming | None:
        """Prepare for the chunks of an update, or pass it by."""
        header = header_from_proto(message.capture.header)
        if self._wants(header.ticket):
            return _Incoming(message.sequence, header=header, plan=message.capture.plan)
        self._cursor = message.sequence + 1
        self._heard.put(Seen(ticket=header.ticket, observation=None))
        return None

    def _hear(self, update: _Incoming) -> None:
        observation = observe(
            update.header, plan=update.plan, blob=update.blob(), artefacts=self._artefacts
        )
        self._cursor = update.sequence + 1
        self._heard.put(Seen(ticket=update.header.ticket, observation=observation))

    def _download(self, sha256: str) -> bytes:
        """An artefact over the connection that is open now."""
        request = rounds_pb2.ArtefactRequest(sha256=sha256)
        stub = rounds_pb2_grpc.FederationStub(self._channel)  # type: ignore[no-untyped-call]
        parts = stub.Download(request, timeout=_TRANSFER_TIMEOUT_S)
        return b"".join(chunk.data for chunk in parts)


class _Incoming:
    """An update whose chunks are on their way."""

    def __init__(self, sequence: int, *, header: UploadHeader, plan: bytes) -> None:
        self.sequence = sequence
        self.header = header
        self.plan = plan
        self._receiver = BlobReceiver(n_bytes=header.n_bytes, sha256=header.sha256)

    def add(self, chunk: Chunk) -> bool:
        """Take a chunk; True when it was the last."""
        self._receiver.add(chunk)
        return self._receiver.n_unsettled == self.header.n_bytes

    def blob(self) -> bytes:
        """The whole update, its hash checked."""
        return b"".join(self._receiver.finish())


def _pause_s(n_failures: int) -> float:
    """Exponential backoff with full jitter."""
    longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(n_failures, 16))
    return random.uniform(0.0, longest_s)
