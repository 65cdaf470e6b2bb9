"""One client and its surroundings: a small real aggregator (gRPC, mutual TLS), a shard, a vault."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from edge_client.backends.base import Backend, Fetch, no_artefacts
from edge_client.client import Client
from edge_client.rpc import Link
from edge_client.vault import Vault
from fedcore.data.shards import Shard, ShardCard
from fedcore.defences.noise import NoiseSource
from fedcore.devices import Deployment
from fedcore.energy import Evaluation, PhaseReport
from fedcore.errors import UpdateError
from fedcore.ground_truth import JudgeKey, VictimRecord, open_record
from fedcore.health import Pulse
from fedcore.operations import LayerCount
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training
from fedcore.seeds import ClientSecret
from fedcore.tensors import pack_weights
from fedcore.types import TensorMap
from fedcore.wire.blobs import BlobReceiver, chunks
from fedcore.wire.channel import CertFiles, channel_options
from fedcore.wire.messages import (
    PROTOCOL,
    Hello,
    UploadHeader,
    header_from_proto,
    hello_from_proto,
    plan_to_bytes,
    report_from_proto,
)
from fedcore.wire.status import status_of
from hardware.window import Recorder
from protos.v1 import rounds_pb2, rounds_pb2_grpc
from testbed.certs import make_certificates

WAIT_S = 20.0
SPEC = ModelSpec(name="mlp", input_shape=(1, 4, 4), n_classes=3, options={"hidden": []})
WEIGHTS = {
    "readout.weight": np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16),
    "readout.bias": np.array([0.5, 0.0, -0.5], dtype=np.float32),
}
BLOB = pack_weights(WEIGHTS)


def plan(**changes: object) -> RoundPlan:
    basis = RoundPlan(
        run_id="demo-ann",
        round=0,
        experiment_digest="0" * 64,
        model=SPEC,
        weights=hashlib.sha256(BLOB).hexdigest(),
        encoding=EncodingSpec(name="rate", n_steps=5),
        training=Training(batch_size=4),
    )
    return replace(basis, **changes)


class LinearBackend:
    """Softmax regression on the time's mean, by hand: d loss / d logits = softmax - one-hot."""

    deploys = False

    def load(self, plan: RoundPlan, weights: TensorMap, *, fetch: Fetch = no_artefacts) -> None:
        self.weights = weights
        self.graphs = {kind: fetch(sha256) for kind, sha256 in plan.graphs.items()}

    def train(
        self, inputs: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, noise: NoiseSource
    ) -> dict[str, np.ndarray]:
        del noise
        x, y = inputs[0].mean(axis=0).reshape(len(labels[0]), -1), labels[0]
        slope = (self._softmax(x) - np.eye(3)[y]) / len(y)
        inputs[0][...] = -1  # a careless backend: the sealed truth must not notice
        labels[0][...] = 0
        return {
            "readout.weight": (slope.T @ x).astype(np.float32),
            "readout.bias": slope.sum(axis=0).astype(np.float32),
        }

    def evaluate(self, inputs: np.ndarray, labels: np.ndarray) -> Evaluation:
        said = self._softmax(inputs.mean(axis=0).reshape(len(labels), -1))
        return Evaluation(
            n_correct=int(np.sum(said.argmax(axis=1) == labels)),
            n_examples=len(labels),
            mean_loss=float(-np.log(said[np.arange(len(labels)), labels]).mean()),
        )

    def count(self, inputs: np.ndarray) -> tuple[LayerCount, ...]:
        macs = float(inputs[:, 0].size * 3)
        return (LayerCount(name="readout", neurons=3, steps=len(inputs), macs=macs, dense=macs),)

    def profile(self, inputs: np.ndarray, labels: np.ndarray) -> tuple[Deployment, ...]:
        return ()

    def describe(self) -> dict[str, str]:
        return {}

    def _softmax(self, x: np.ndarray) -> np.ndarray:
        e = np.exp(x @ self.weights["readout.weight"].T + self.weights["readout.bias"])
        return e / e.sum(axis=1, keepdims=True)


@dataclass
class SmallAggregator(rounds_pb2_grpc.FederationServicer):
    """Welcomes everybody, pushes what the test says, keeps what comes. One object, many servers."""

    heartbeat_s: float = 5.0
    refuse_upload: Callable[[UploadHeader], None] = lambda header: None
    artefacts: dict[str, bytes] = field(default_factory=dict)
    hellos: list[Hello] = field(default_factory=list)
    beats: int = 0
    uploads: list[tuple[UploadHeader, bytes]] = field(default_factory=list)
    reports: queue.Queue[PhaseReport] = field(default_factory=queue.Queue)
    refused_joins: list[str] = field(default_factory=list)
    outbox: queue.Queue[rounds_pb2.ServerMessage | None] = field(default_factory=queue.Queue)

    def push(self, plan: RoundPlan, *, attempt: int = 0, inline: bool = True) -> None:
        start = rounds_pb2.RoundStart(
            plan=plan_to_bytes(plan), weights=BLOB if inline else b"", attempt=attempt
        )
        self.outbox.put(rounds_pb2.ServerMessage(round_start=start))

    def say_farewell(self) -> None:
        farewell = rounds_pb2.Farewell(reason="done", finished=True)
        self.outbox.put(rounds_pb2.ServerMessage(farewell=farewell))

    def Join(self, requests, context):  # noqa: N802
        hello = hello_from_proto(next(requests).hello)
        if self.refused_joins:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refused_joins[0])
        self.hellos.append(hello)
        yield rounds_pb2.ServerMessage(
            welcome=rounds_pb2.Welcome(protocol=PROTOCOL, heartbeat_s=self.heartbeat_s)
        )
        threading.Thread(target=self._echo, args=(requests,), daemon=True).start()
        connection = len(self.hellos)
        while context.is_active() and connection == len(self.hellos):
            with contextlib.suppress(queue.Empty):
                message = self.outbox.get(timeout=0.02)
                if connection != len(self.hellos):  # it is for the next connection
                    self.outbox.put(message)
                    return
                if message is None:
                    return
                yield message
                if message.WhichOneof("message") == "farewell":
                    return

    def Upload(self, parts, context):  # noqa: N802
        try:
            first = next(parts)
            header = header_from_proto(first.header)
            self.refuse_upload(header)
            receiver = BlobReceiver(n_bytes=header.n_bytes, sha256=header.sha256)
            for part in itertools.chain([first], parts):
                if part.HasField("chunk"):
                    receiver.add(part.chunk)
            body = b"".join(receiver.finish())
        except UpdateError as error:
            context.abort(status_of(error), str(error))
        known = any(sent == body for _, sent in self.uploads)
        self.uploads.append((header, body))
        return rounds_pb2.UploadReceipt(sha256=header.sha256, already_had_it=known)

    def ReportPhases(self, request, context):  # noqa: N802
        self.reports.put(report_from_proto(request))
        return rounds_pb2.PhaseReceipt()

    def Download(self, request, context):  # noqa: N802
        yield from chunks(self.artefacts[request.sha256])

    def _echo(self, requests) -> None:
        with contextlib.suppress(grpc.RpcError):
            for message in requests:
                self.beats += 1
                reply = rounds_pb2.HeartbeatReply(
                    sequence=message.heartbeat.sequence,
                    sent_wall_ns=message.heartbeat.sent_wall_ns,
                    server_wall_ns=time.time_ns() + 10**12,  # this aggregator lives 1000 s ahead
                )
                self.outbox.put(rounds_pb2.ServerMessage(heartbeat=reply))


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    make_certificates(folder, client_ids=["client-0"])
    return folder


@dataclass
class Site:
    """Everything around one client: an aggregator that can be killed, a shard, a vault."""

    folder: Path
    certs: Path
    judge: JudgeKey
    aggregator: SmallAggregator = field(default_factory=SmallAggregator)
    address: str | None = None
    server: grpc.Server | None = None

    def serve(self) -> None:
        self.server = grpc.server(ThreadPoolExecutor(8), options=channel_options())
        rounds_pb2_grpc.add_FederationServicer_to_server(self.aggregator, self.server)
        credentials = CertFiles.of(self.certs, "aggregator").server_credentials()
        port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.server.start()
        self.address = f"127.0.0.1:{port}"

    def kill_server(self) -> None:
        self.server.stop(None).wait()

    @contextlib.contextmanager
    def client(self, *, secret: bytes = b"s" * 32) -> Iterator[Client]:
        link = Link(
            address=lambda: self.address,
            certs=CertFiles.of(self.certs, "client-0"),
            hello=Hello(client_id="client-0", codecs=("f32",)),
            pulse=Pulse(self.folder / "pulse"),
        )
        with link, Recorder(meter=Choice(name="null")) as recorder:
            yield Client(
                name="client-0",
                link=link,
                shard=a_shard(),
                secret=ClientSecret(secret),
                vault=Vault(self.folder / "vault", judge_key=self.folder / "judge.pub"),
                backend=LinearBackend(),
                recorder=recorder,
                card_digest="c" * 64,
            )

    @contextlib.contextmanager
    def running_client(
        self, *, secret: bytes = b"s" * 32, backend: Backend | None = None
    ) -> Iterator[Client]:
        """A client in a thread; leaving sends it home, and raises what it raised."""
        with self.client(secret=secret) as client, ThreadPoolExecutor(1) as thread:
            client.backend = backend or client.backend
            home = thread.submit(client.run)
            try:
                yield client
            finally:
                self.aggregator.say_farewell()
            home.result(WAIT_S)

    def records(self) -> list[VictimRecord]:
        files = sorted((self.folder / "vault").rglob("*.sealed"))
        return [open_record(file.read_bytes(), key=self.judge) for file in files]

    def report(self, *, round: int = 0) -> PhaseReport:
        """The next report of a round; one whose receipt was lost may come twice."""
        while True:
            report = self.aggregator.reports.get(timeout=WAIT_S)
            if report.ticket.round == round:
                return report


@pytest.fixture
def site(tmp_path: Path, certs: Path) -> Iterator[Site]:
    judge = JudgeKey.generate()
    judge.write(private=tmp_path / "judge.key", public=tmp_path / "judge.pub")
    place = Site(folder=tmp_path, certs=certs, judge=judge)
    place.serve()
    yield place
    place.kill_server()


def a_shard() -> Shard:
    rng = np.random.default_rng(11)
    n_train, n_eval = 20, 300  # more held out than are evaluated at a time
    return Shard(
        inputs=rng.random((n_train, 1, 4, 4), dtype=np.float32),
        labels=rng.integers(0, 3, n_train),
        eval_inputs=rng.random((n_eval, 1, 4, 4), dtype=np.float32),
        eval_labels=rng.integers(0, 3, n_eval),
        card=ShardCard(
            client_id="client-0",
            dataset=Choice(name="digits"),
            partition=Choice(name="iid"),
            seed=0,
            n_train=n_train,
            n_eval=n_eval,
            label_counts={},
            input_shape=(1, 4, 4),
            sha256="0" * 64,
        ),
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)
