"""A client of Leakwatt that answers every plan with the same tensors, as fast as it can.

It reads only what it needs of the plan: a real client's own work is not the federation's. Where it
is given bare servers, it sends them the same blob before each of its own uploads, while the
aggregator waits: bare, ours, bare, ours, from one process within one second.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from benchmarks import bare
from fedcore.codecs.base import CODECS
from fedcore.plan import Choice
from fedcore.types import Ticket, Update
from fedcore.update_blob import pack_update
from fedcore.wire.channel import CertFiles, channel_options
from fedcore.wire.messages import (
    Hello,
    UploadHeader,
    hello_to_proto,
    ticket_to_proto,
)
from fedcore.wire.parts import Uploader
from protos.v1 import rounds_pb2, rounds_pb2_grpc

__all__ = ["Durations", "FastClient", "weights"]

_HEARTBEAT_S = 2.0
_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Durations:
    """What one client saw, in s.

    Attributes:
        starts_s: when each training plan came.
        hashes_s: the SHA-256 of each update.
        uploads_s: each upload, from the first byte to the acknowledgement.
        bare_s: the same blobs in plain text to a bare server.
        bare_tls_s: the same with mutual TLS.
    """

    starts_s: list[float] = field(default_factory=list)
    hashes_s: list[float] = field(default_factory=list)
    uploads_s: list[float] = field(default_factory=list)
    bare_s: list[float] = field(default_factory=list)
    bare_tls_s: list[float] = field(default_factory=list)


class FastClient:
    """One client.

    Args:
        certs: folder of the certificates.
        name: of the client, as in its certificate.
        n_values: float32 values of the model.
    """

    def __init__(self, certs: Path, name: str, *, n_values: int) -> None:
        self._certs, self._name = certs, name
        self._tensors = weights(n_values)
        self._bare: list[tuple[grpc.Channel, list[float]]] = []
        self.durations = Durations()

    def run(self, address: str, *, bare_address: str | None, bare_tls_address: str | None) -> None:
        """Take part until the farewell."""
        seen = self.durations
        with ExitStack() as stack:
            for where, certs, into in (
                (bare_address, None, seen.bare_s),
                (bare_tls_address, self._certs, seen.bare_tls_s),
            ):
                if where is not None:
                    channel = bare.open_channel(where, certs=certs, name=self._name)
                    self._bare.append((stack.enter_context(channel), into))
            credentials = CertFiles.of(self._certs, self._name).channel_credentials()
            ours = grpc.secure_channel(address, credentials, options=channel_options())
            self._take_part(stack.enter_context(ours))

    def _take_part(self, channel: grpc.Channel) -> None:
        stub = rounds_pb2_grpc.FederationStub(channel)  # type: ignore[no-untyped-call]
        uploader = Uploader(channel)
        over = threading.Event()
        for message in stub.Join(self._say(over)):
            if message.WhichOneof("message") == "round_start":
                self._answer(stub, uploader, message.round_start)
        over.set()

    def _say(self, over: threading.Event) -> Iterator[rounds_pb2.ClientMessage]:
        """Hello, then heartbeats, as a client's gRPC thread sends them."""
        hello = hello_to_proto(Hello(client_id=self._name, codecs=tuple(CODECS.names())))
        yield rounds_pb2.ClientMessage(hello=hello)
        while not over.wait(_HEARTBEAT_S):
            yield rounds_pb2.ClientMessage(heartbeat=rounds_pb2.Heartbeat())

    def _answer(
        self,
        stub: rounds_pb2_grpc.FederationStub,
        uploader: Uploader,
        start: rounds_pb2.RoundStart,
    ) -> None:
        started_s = time.perf_counter()
        plan = json.loads(start.plan)
        ticket = Ticket(run_id=plan["run_id"], round=plan["round"], client_id=self._name)
        if not plan["train"]:
            stub.ReportPhases(rounds_pb2.PhaseReport(ticket=ticket_to_proto(ticket)))
            return
        self.durations.starts_s.append(started_s)
        digest = hashlib.sha256(start.plan).hexdigest()
        update = Update(kind="gradient", tensors=self._tensors, n_examples=1, plan_digest=digest)
        blob = pack_update(update, codec=Choice(name="f32"), client_id=self._name)
        for channel, durations_s in self._bare:
            durations_s.append(bare.upload(channel, blob))
        begun_s = time.perf_counter()
        sha256 = hashlib.sha256(blob).hexdigest()
        hashed_s = time.perf_counter()
        header = UploadHeader(
            ticket=ticket,
            attempt=start.attempt,
            plan_digest=digest,
            n_bytes=len(blob),
            sha256=sha256,
        )
        uploader.upload(header, blob, timeout_s=_TIMEOUT_S)
        self.durations.hashes_s.append(hashed_s - begun_s)
        self.durations.uploads_s.append(time.perf_counter() - hashed_s)


def weights(n_values: int) -> dict[str, np.ndarray]:
    """A model of so many float32 values."""
    return {"weight": np.random.default_rng(0).normal(0, 1e-3, n_values).astype(np.float32)}


def main() -> None:
    """Take part; print the durations."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--certs", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--n-values", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--bare-address")
    parser.add_argument("--bare-tls-address")
    args = parser.parse_args()
    client = FastClient(args.certs, args.name, n_values=args.n_values)
    client.run(args.address, bare_address=args.bare_address, bare_tls_address=args.bare_tls_address)
    print(json.dumps(dataclasses.asdict(client.durations)))


if __name__ == "__main__":
    main()
