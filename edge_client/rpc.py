"""The client's line to the aggregator: kept open for the whole run, mended whenever it breaks.

One thread stays joined: it connects, says hello, listens, and connects again after any failure
that may pass. gRPC's own sender thread carries the heartbeats, so that they go on while the main
thread trains. The main thread takes orders, uploads and reports; each of its calls has a deadline
and is repeated until it is answered, or until its order is no longer wanted.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc

from fedcore.clock import ClockOffset
from fedcore.energy import PhaseReport
from fedcore.errors import ConfigError, HandshakeError, IdentityError, UpdateError
from fedcore.health import Pulse
from fedcore.plan import RoundPlan
from fedcore.wire.channel import CertFiles, channel_options
from fedcore.wire.messages import (
    PROTOCOL,
    Hello,
    UploadHeader,
    hello_to_proto,
    plan_from_bytes,
    report_to_proto,
)
from fedcore.wire.parts import Uploader
from fedcore.wire.status import error_of, is_transient
from protos.v1 import rounds_pb2, rounds_pb2_grpc

__all__ = ["Link", "Order", "Overtaken", "address_in"]

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_CALL_TIMEOUT_S = 30.0
_TRANSFER_TIMEOUT_S = 600.0  # a dead peer is noticed by keepalive long before
_NO_PULSE = Pulse(None)
_REFUSALS = (HandshakeError, IdentityError, ConfigError)

T = TypeVar("T")


class Overtaken(Exception):  # noqa: N818  # not an error: the run simply went on
    """The order being worked on is no longer wanted."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the aggregator asks for.

    Attributes:
        plan_digest: of the plan's bytes as they came; two orders with the same one ask for the
            same answer.
        inline_weights: the global weights' artefact, or empty when it is to be downloaded.
        attempt: how often this client was asked before.
    """

    plan: RoundPlan
    plan_digest: str
    inline_weights: bytes = field(repr=False)
    attempt: int


class _Calls:
    """What can be called on one connection."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = rounds_pb2_grpc.FederationStub(channel)  # type: ignore[no-untyped-call]
        self.uploader = Uploader(channel)


class Link:
    """Use as a context manager: entering starts to connect, leaving hangs up.

    Args:
        address: returns HOST:PORT, asked anew before every connection, or None while unknown.
        certs: of this client.
        hello: who it is.
        pulse: beats at every answered heartbeat.
    """

    def __init__(
        self,
        *,
        address: Callable[[], str | None],
        certs: CertFiles,
        hello: Hello,
        pulse: Pulse = _NO_PULSE,
    ) -> None:
        self._address = address
        self._credentials = certs.channel_credentials()
        self._hello = hello
        self._pulse = pulse
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="join")
        self._closing = threading.Event()
        self._changed = threading.Condition()  # guards what follows
        self._channel: grpc.Channel | None = None
        self._calls: _Calls | None = None  # while joined
        self._clock: ClockOffset | None = None
        self._order: Order | None = None
        self._order_is_new = False

    def __enter__(self) -> Link:
        self._joined = self._thread.submit(self._stay_joined)
        self._joined.add_done_callback(self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with self._changed:
            if self._channel is not None:
                self._channel.close()
        self._thread.shutdown()

    def next_order(self) -> Order | None:
        """Wait for the newest order not taken yet; None when every run is finished.

        Raises:
            HandshakeError: the aggregator refuses this client.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._order_is_new or self._joined.done())
            if self._joined.done():
                self._joined.result()
                return None
            self._order_is_new = False
            return self._order

    def require_wanted(self, order: Order) -> None:
        """Let work go on only while its result can still count.

        Raises:
            Overtaken: there is a newer order, or every run is finished.
            HandshakeError: the aggregator refuses this client.
        """
        with self._changed:
            self._require_more_to_come()
            if self._order is None or self._order.plan_digest != order.plan_digest:
                raise Overtaken("the round closed without this answer")

    def download(self, order: Order, sha256: str) -> bytes:
        """An artefact that the order's plan names, unchecked.

        Raises:
            Overtaken: while trying.
        """
        request = rounds_pb2.ArtefactRequest(sha256=sha256)
        return self._persist(
            lambda calls: b"".join(
                chunk.data for chunk in calls.stub.Download(request, timeout=_TRANSFER_TIMEOUT_S)
            ),
            check=lambda: self.require_wanted(order),
        )

    def upload(self, order: Order, header: UploadHeader, body: bytes) -> bool:
        """Send an update; when this returns it is in the aggregator's journal.

        Returns:
            Whether the aggregator had accepted the same bytes before.

        Raises:
            UpdateError: admission refused it.
            Overtaken: while trying.
        """
        return self._persist(
            lambda calls: bool(
                calls.uploader.upload(header, body, timeout_s=_TRANSFER_TIMEOUT_S).already_had_it
            ),
            check=lambda: self.require_wanted(order),
        )

    def report(self, report: PhaseReport) -> None:
        """Tell what a round's phases cost, even if its round has closed meanwhile.

        Telling it twice is harmless.

        Raises:
            UpdateError: the report breaks its contract.
            Overtaken: every run was finished while trying.
        """
        message = report_to_proto(report)
        self._persist(
            lambda calls: calls.stub.ReportPhases(message, timeout=_CALL_TIMEOUT_S),
            check=self._require_more_to_come,
        )

    def clock_offset(self) -> ClockOffset:
        """The best estimate of this connection; waits for its first heartbeat's echo.

        Raises:
            Overtaken: every run was finished while waiting.
        """
        with self._changed:
            while self._clock is None:
                self._require_more_to_come()
                self._changed.wait()
            return self._clock

    def _persist(self, ask: Callable[[_Calls], T], *, check: Callable[[], None]) -> T:
        """Ask until answered, across lost connections, full disks and restarts of the aggregator.

        Args:
            ask: one call with a deadline.
            check: raises when the answer would not count any more.

        Raises:
            UpdateError: admission refused this update.
            HandshakeError: the aggregator refuses this client.
        """
        n_failures = 0
        while True:
            try:
                return ask(self._wait_until_joined(check))
            except grpc.RpcError as failure:
                error = error_of(failure)
                if isinstance(error, UpdateError):
                    raise error from failure
                if isinstance(error, _REFUSALS):
                    raise HandshakeError(f"the aggregator refuses: {error}") from failure
                if not is_transient(failure):
                    log.warning("call failed, trying again", extra={"why": str(error)})
            except ValueError:  # gRPC's word for: the channel was closed in between
                log.debug("the connection was closed under a call")
            self._closing.wait(_pause_s(n_failures))
            n_failures += 1

    def _wait_until_joined(self, check: Callable[[], None]) -> _Calls:
        with self._changed:
            check()
            while self._calls is None:
                self._changed.wait()
                check()
            return self._calls

    def _require_more_to_come(self) -> None:
        with self._changed:
            if self._joined.done():
                self._joined.result()  # raises what the aggregator refused
                raise Overtaken("every run is finished")

    def _stay_joined(self) -> None:
        """The join thread: returns when every run is finished, raises when refused."""
        n_failures, last_why = 0, ""
        while not self._closing.is_set():
            try:
                address = self._address()
                if address is None:
                    why = "the aggregator's address is not known yet"
                elif self._converse(address):
                    return
                else:
                    why = "the aggregator hung up"
            except grpc.RpcError as failure:
                error = error_of(failure)
                if isinstance(error, (UpdateError, *_REFUSALS)):
                    raise HandshakeError(f"the aggregator refuses: {error}") from failure
                why = str(error)
            if self._leave():
                n_failures, last_why = 0, ""
            if why != last_why and not self._closing.is_set():  # once, not every five seconds
                log.warning("not connected, trying again", extra={"why": why})
            last_why = why
            self._closing.wait(_pause_s(n_failures))
            n_failures += 1

    def _converse(self, address: str) -> bool:
        """One connection from hello to its end; True when every run is finished."""
        with contextlib.ExitStack() as stack:
            channel = grpc.secure_channel(address, self._credentials, channel_options())
            stack.enter_context(channel)
            with self._changed:
                if self._closing.is_set():
                    return False
                self._channel = channel
            period_s: queue.SimpleQueue[float | None] = queue.SimpleQueue()
            stack.callback(period_s.put, None)
            calls = _Calls(channel)
            for message in calls.stub.Join(self._say(period_s)):
                kind = message.WhichOneof("message")
                if kind == "welcome":
                    self._welcome(message.welcome, calls)
                    period_s.put(message.welcome.heartbeat_s)
                elif kind == "heartbeat":
                    self._hear_echo(message.heartbeat)
                elif kind == "round_start":
                    self._take_order(message.round_start)
                elif kind == "round_closed":
                    log.info(
                        "round closed",
                        extra={
                            "run": message.round_closed.run_id,
                            "round": message.round_closed.round,
                            "accepted": len(message.round_closed.accepted),
                        },
                    )
                elif kind == "farewell":
                    log.info("farewell", extra={"why": message.farewell.reason})
                    return bool(message.farewell.finished)
        return False

    def _say(self, period_s: queue.SimpleQueue[float | None]) -> Iterator[rounds_pb2.ClientMessage]:
        """Hello, then heartbeats; runs in gRPC's sender thread.

        Args:
            period_s: brings the time between heartbeats with the welcome, and None at the end.
        """
        yield rounds_pb2.ClientMessage(hello=hello_to_proto(self._hello))
        wait_s = period_s.get()
        for sequence in itertools.count():
            if wait_s is None:
                return
            beat = rounds_pb2.Heartbeat(sequence=sequence, sent_wall_ns=time.time_ns())
            yield rounds_pb2.ClientMessage(heartbeat=beat)
            with contextlib.suppress(queue.Empty):
                wait_s = period_s.get(timeout=wait_s)

    def _welcome(self, welcome: rounds_pb2.Welcome, calls: _Calls) -> None:
        if welcome.protocol != PROTOCOL:
            raise HandshakeError(
                f"the aggregator speaks protocol {welcome.protocol}, this client {PROTOCOL}; "
                "install the same leakwatt version on both"
            )
        if not welcome.heartbeat_s > 0:
            raise HandshakeError(
                f"the aggregator asks for heartbeats every {welcome.heartbeat_s} s"
            )
        log.info("joined", extra={"client": self._hello.client_id})
        with self._changed:
            self._calls = calls
            self._changed.notify_all()

    def _hear_echo(self, echo: rounds_pb2.HeartbeatReply) -> None:
        heard = ClockOffset.from_echo(
            sent_ns=echo.sent_wall_ns, peer_ns=echo.server_wall_ns, received_ns=time.time_ns()
        )
        self._pulse.beat()
        with self._changed:
            self._clock = heard if self._clock is None else self._clock.better_of(heard)
            self._changed.notify_all()

    def _take_order(self, start: rounds_pb2.RoundStart) -> None:
        plan, plan_digest = plan_from_bytes(start.plan)
        order = Order(
            plan=plan, plan_digest=plan_digest, inline_weights=start.weights, attempt=start.attempt
        )
        with self._changed:
            self._order = order
            self._order_is_new = True
            self._changed.notify_all()

    def _leave(self) -> bool:
        """Forget a connection that ended; whether the aggregator had welcomed us on it."""
        with self._changed:
            was_joined = self._calls is not None
            self._calls = self._channel = self._clock = None
            self._changed.notify_all()
        return was_joined

    def _tell(self, _: Future[None]) -> None:
        """Wake the main thread when the join thread has ended."""
        with self._changed:
            self._changed.notify_all()


def address_in(path: Path) -> str | None:
    """The HOST:PORT in a file that the aggregator writes, or None while there is none."""
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: the aggregator's address cannot be read ({error})") from error


def _pause_s(n_failures: int) -> float:
    """Exponential backoff with full jitter, so that many clients do not come back at once."""
    longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(n_failures, 16))
    return random.uniform(0.0, longest_s)
