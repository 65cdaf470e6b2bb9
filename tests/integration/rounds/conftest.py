"""A real aggregator process on port 0 with mutual TLS, and tiny clients written in numpy."""

from __future__ import annotations

import hashlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest

from aggregator.records import StoreReader
from fedcore.codecs.base import CODECS
from fedcore.config import Experiment, parse_experiment
from fedcore.energy import Evaluation, Phase, PhaseRecord, PhaseReport
from fedcore.layout import RunFolder
from fedcore.plan import RoundPlan
from fedcore.seeds import stream
from fedcore.tensors import pack_weights, unpack_weights
from fedcore.types import Missing, TensorMap, Ticket, Update
from fedcore.update_blob import pack_update
from fedcore.wire.blobs import chunks
from fedcore.wire.channel import CertFiles, channel_options
from fedcore.wire.messages import (
    Hello,
    UploadHeader,
    header_to_proto,
    hello_to_proto,
    plan_from_bytes,
    report_to_proto,
)
from protos.v1 import rounds_pb2, rounds_pb2_grpc, tap_pb2, tap_pb2_grpc
from testbed.certs import make_certificates

ROOT = Path(__file__).parents[3]
WAIT_S = 30.0
WEIGHTS = {
    "hidden.weight": np.linspace(-1, 1, 40, dtype=np.float32).reshape(5, 8),
    "readout.bias": np.array([0.5, 0.0, -0.5], dtype=np.float32),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A round start as a client got it."""

    plan: RoundPlan
    plan_digest: str
    attempt: int
    weights: TensorMap


def honest_update(asked: Asked, client_id: str) -> Update:
    """The same numbers every time for the same client and round, like a client with its secret."""
    rng = stream(7, client_id, asked.plan.run_id, asked.plan.round)
    return Update(
        kind=asked.plan.training.update,
        tensors={
            n: rng.normal(0, 0.1, t.shape).astype(np.float32) for n, t in asked.weights.items()
        },
        n_examples=int(rng.integers(1, 20)),
        plan_digest=asked.plan_digest,
    )


class Peer:
    """Somebody with a certificate, and the calls that gRPC offers."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        credentials = CertFiles.of(world.certs, name).channel_credentials()
        options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.secure_channel(world.address(), credentials, options=options)
        self.federation = rounds_pb2_grpc.FederationStub(self.channel)
        self.tap = tap_pb2_grpc.TapStub(self.channel)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def header(self, asked: Asked, blob: bytes, **changes: object) -> UploadHeader:
        facts = {
            "ticket": Ticket(run_id=asked.plan.run_id, round=asked.plan.round, client_id=self.name),
            "attempt": asked.attempt,
            "plan_digest": asked.plan_digest,
            "n_bytes": len(blob),
            "sha256": hashlib.sha256(blob).hexdigest(),
        }
        return UploadHeader(**{**facts, **changes})

    def send(self, *parts: object) -> rounds_pb2.UploadReceipt:
        """Send an upload part by part: an UploadHeader, then chunks."""
        messages = [
            rounds_pb2.UploadPart(header=header_to_proto(part))
            if isinstance(part, UploadHeader)
            else rounds_pb2.UploadPart(chunk=part)
            for part in parts
        ]
        return self.federation.Upload(iter(messages), timeout=WAIT_S)

    def upload(self, asked: Asked, blob: bytes, **changes: object) -> rounds_pb2.UploadReceipt:
        return self.send(self.header(asked, blob, **changes), *chunks(blob))

    def report(self, asked: Asked, *, attempt: int | None = None) -> rounds_pb2.PhaseReceipt:
        phase = PhaseRecord(
            phase=Phase.TRAIN,
            start_mono_ns=1,
            duration_s=0.5,
            cpu_s=0.25,
            measured=Missing(why="no meter here"),
            modelled=Missing(why="no model here"),
        )
        report = PhaseReport(
            ticket=Ticket(run_id=asked.plan.run_id, round=asked.plan.round, client_id=self.name),
            attempt=asked.attempt if attempt is None else attempt,
            phases=(phase,),
            evaluation=(
                Evaluation(n_correct=3, n_examples=4, mean_loss=0.5)
                if asked.plan.evaluate
                else None
            ),
            clock_offset_s=0.0,
            clock_uncertainty_s=0.001,
            machine_card="0" * 64,
        )
        return self.federation.ReportPhases(report_to_proto(report), timeout=WAIT_S)


class TinyClient(threading.Thread):
    """A persistent client: joins, answers what it is asked, comes back when the stream breaks.

    `answer` may be replaced, to misbehave or to wait.
    """

    def __init__(
        self,
        world: World,
        name: str,
        answer: Callable[[TinyClient, Peer, Asked], None] | None = None,
    ) -> None:
        super().__init__(daemon=True, name=name)
        self.world, self.answer = world, answer or TinyClient.answer_honestly
        self.seen: list[rounds_pb2.ServerMessage] = []
        self.errors: list[BaseException] = []
        self.farewell: rounds_pb2.Farewell | None = None
        self.silent = threading.Event()  # set: no more heartbeats
        self.gone = threading.Event()

    def answer_honestly(self, peer: Peer, asked: Asked) -> None:
        if asked.plan.train:
            update = honest_update(asked, self.name)
            peer.upload(asked, pack_update(update, codec=asked.plan.codec, client_id=self.name))
        peer.report(asked)

    def run(self) -> None:
        while not self.gone.is_set() and (self.farewell is None or not self.farewell.finished):
            try:
                self.take_part()
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    self.errors.append(error)
                    return
            except FileNotFoundError:
                pass  # the address is not written yet
            time.sleep(0.05)

    def take_part(self) -> None:
        with Peer(self.world, self.name) as peer:
            outbox: queue.Queue[rounds_pb2.ClientMessage | None] = queue.Queue()
            hello = Hello(client_id=self.name, codecs=tuple(CODECS.names()))
            outbox.put(rounds_pb2.ClientMessage(hello=hello_to_proto(hello)))
            incoming = peer.federation.Join(iter(outbox.get, None))
            beating = threading.Thread(target=self.beat, args=(outbox, incoming), daemon=True)
            beating.start()
            try:
                for message in incoming:
                    self.seen.append(message)
                    if message.WhichOneof("message") == "round_start":
                        self.answer(self, peer, self.read(peer, message.round_start))
                    if message.WhichOneof("message") == "farewell":
                        self.farewell = message.farewell
            finally:
                outbox.put(None)

    def beat(self, outbox: queue.Queue[object], call: grpc.Call) -> None:
        while call.is_active() and not self.silent.is_set():
            if self.gone.is_set():
                call.cancel()
            outbox.put(rounds_pb2.ClientMessage(heartbeat=rounds_pb2.Heartbeat(sequence=1)))
            time.sleep(0.1)

    def read(self, peer: Peer, start: rounds_pb2.RoundStart) -> Asked:
        plan, plan_digest = plan_from_bytes(start.plan)
        blob = start.weights or b"".join(
            chunk.data
            for chunk in peer.federation.Download(
                rounds_pb2.ArtefactRequest(sha256=plan.weights), timeout=WAIT_S
            )
        )
        assert hashlib.sha256(blob).hexdigest() == plan.weights
        return Asked(
            plan=plan, plan_digest=plan_digest, attempt=start.attempt, weights=unpack_weights(blob)
        )


@dataclass
class World:
    """A prepared run folder, its certificates, and the processes started on it."""

    run: RunFolder
    certs: Path
    experiment: Experiment
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    clients: list[TinyClient] = field(default_factory=list)

    def start(self, *arguments: str, code: str = "", **options: object) -> subprocess.Popen[str]:
        """Start the aggregator, or code that ends up in its `main`; wait until it listens."""
        address = self.run.root / "aggregator.address"
        address.unlink(missing_ok=True)
        process = subprocess.Popen(
            [
                *(sys.executable, *(("-c", code) if code else ("-m", "aggregator.cli"))),
                *("--run", str(self.run.root), "--certs", str(self.certs)),
                *("--listen", "127.0.0.1:0", "--heartbeat-s", "2", "--grace-s", "1"),
                *arguments,
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.processes.append(process)
        wait_until(lambda: address.exists() or process.poll() is not None)
        return process

    def address(self) -> str:
        return (self.run.root / "aggregator.address").read_text().strip()

    def client(self, name: str, answer: object = None) -> TinyClient:
        client = TinyClient(self, name, answer)
        self.clients.append(client)
        client.start()
        return client

    def start_clients(self) -> None:
        for name in self.experiment.client_ids:
            self.client(name)

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Wait for a good end; return what was logged."""
        log = process.communicate(timeout=2 * WAIT_S)[1]
        assert process.returncode == 0, log
        for client in self.clients:
            client.join(WAIT_S)
            assert not client.errors, client.errors
        return log

    def store(self) -> StoreReader:
        return StoreReader(self.run.store_file)

    def final_weights(self) -> dict[str, bytes]:
        """The last weights of every arm, bit by bit."""
        with self.store() as store:
            return {
                arm.name: (
                    self.run.artefacts / store.rounds(self.experiment.run_id(arm))[-1].weights
                ).read_bytes()
                for arm in self.experiment.arms
            }

    def close(self) -> None:
        for client in self.clients:
            client.gone.set()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()
        for client in self.clients:
            client.join(WAIT_S)


def wait_until(condition: Callable[[], object], *, within_s: float = WAIT_S) -> None:
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of three clients of the experiment, and of one that it does not know."""
    folder = tmp_path_factory.mktemp("certs")
    make_certificates(folder, client_ids=["client-0", "client-1", "client-2", "client-9"])
    return folder


@contextmanager
def worlds_in(root: Path, *, certs: Path) -> Iterator[Callable[..., World]]:
    """Build prepared run folders; whatever was started on them is stopped at the end."""
    worlds: list[World] = []

    def make(*, folder: Path | None = None, **table: object) -> World:
        experiment = parse_experiment({"name": "tiny", "n_clients": 3, **table}, where="test")
        run = RunFolder(folder or root / f"run-{len(worlds)}")
        run.write_experiment(experiment)
        blob = pack_weights(WEIGHTS)
        digest = hashlib.sha256(blob).hexdigest()
        run.artefacts.mkdir()
        (run.artefacts / digest).write_bytes(blob)
        run.initial_file.write_text(json.dumps({arm.name: digest for arm in experiment.arms}))
        worlds.append(World(run=run, certs=certs, experiment=experiment))
        return worlds[-1]

    try:
        yield make
    finally:
        for world in worlds:
            with suppress(ProcessLookupError):
                world.close()


@pytest.fixture(scope="session")
def world_maker(certs: Path) -> Callable[[Path], object]:
    """For fixtures that outlive a test."""
    return partial(worlds_in, certs=certs)


@pytest.fixture
def make_world(tmp_path: Path, certs: Path) -> Iterator[Callable[..., World]]:
    """Worlds of one test."""
    with worlds_in(tmp_path, certs=certs) as make:
        yield make


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition."""
    return wait_until


@pytest.fixture
def tools() -> dict[str, object]:
    """What tests need by name, since nobody imports a conftest."""
    return {
        "Peer": Peer,
        "honest_update": honest_update,
        "TapRequest": tap_pb2.TapRequest,
        "ArtefactRequest": rounds_pb2.ArtefactRequest,
    }
