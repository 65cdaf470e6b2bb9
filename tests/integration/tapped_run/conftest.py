"""A run whose store and journal the aggregator's own code wrote, and its real tap over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aggregator.journal import BlobFolder  # noqa: E402
from aggregator.rpc import start_server  # noqa: E402
from aggregator.server import Aggregator, ServerOptions  # noqa: E402
from aggregator.store import Store  # noqa: E402
from fedcore.config import Experiment, parse_experiment  # noqa: E402
from fedcore.health import Pulse  # noqa: E402
from fedcore.layout import RunFolder  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import RoundPlan  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.tensors import pack_weights  # noqa: E402
from fedcore.types import Ticket, Update  # noqa: E402
from fedcore.update_blob import pack_update  # noqa: E402
from fedcore.wire.channel import CertFiles  # noqa: E402
from fedcore.wire.messages import UploadHeader, plan_to_bytes  # noqa: E402
from testbed.certs import make_certificates  # noqa: E402

ROUNDS = 3
TABLE = {
    "name": "tapped",
    "n_clients": 2,
    "model": {"name": "mlp", "input_shape": [6], "n_classes": 3, "options": {"hidden": []}},
    "training": {"batch_size": 1},
    "defences": [{"name": "clip", "options": {"max_norm": 100.0}}],
    "schedule": {"rounds": ROUNDS},
    "attack": {"name": "idlg", "victim_rounds": [0, 1], "restarts": 2, "iterations": 60},
    "arms": [{"name": "one"}, {"name": "two", "threat": {"defence_settings": True}}],
}


@dataclass
class TappedRun:
    """A run folder that is filled step by step, and served whenever the test likes."""

    run: RunFolder
    experiment: Experiment
    certs: Path

    def accept_round(self, arm_name: str, round: int) -> None:
        """Keep what the aggregator would have kept: plan, weights and both clients' updates."""
        arm = next(arm for arm in self.experiment.arms if arm.name == arm_name)
        run_id = self.experiment.run_id(arm)
        journal, artefacts = BlobFolder(self.run.journal), BlobFolder(self.run.artefacts)
        weights = initial_weights(arm.model, seed=round)
        plan = RoundPlan(
            run_id=run_id,
            round=round,
            experiment_digest=self.experiment.digest,
            model=arm.model,
            weights=artefacts.put(pack_weights(weights)),
            encoding=arm.encoding,
            training=arm.training,
            defences=arm.defences,
            codec=arm.codec,
        )
        sent = plan_to_bytes(plan)
        digest = hashlib.sha256(sent).hexdigest()
        with contextlib.closing(Store(self.run.store_file)) as store:
            store.start_run(run_id, arm=arm_name)
            store.open_round(
                run_id, round=round, plan=sent, plan_digest=digest, weights=plan.weights
            )
            for client_id in self.experiment.client_ids:
                ticket = Ticket(run_id=run_id, round=round, client_id=client_id)
                inputs, label = self.truth(ticket)
                slopes = gradient(
                    build(arm.model),
                    to_tensors(weights),
                    to_tensor(inputs[None]),
                    to_tensor(label),
                )
                update = Update(
                    kind="gradient", tensors=to_arrays(slopes), n_examples=1, plan_digest=digest
                )
                blob = pack_update(update, codec=arm.codec, client_id=client_id)
                header = UploadHeader(
                    ticket=ticket,
                    attempt=0,
                    plan_digest=digest,
                    n_bytes=len(blob),
                    sha256=journal.put(blob),
                )
                store.accept(header, n_examples=1, kind="gradient")

    def finish(self, arm_name: str) -> None:
        arm = next(arm for arm in self.experiment.arms if arm.name == arm_name)
        with contextlib.closing(Store(self.run.store_file)) as store:
            store.finish_run(self.experiment.run_id(arm))

    def truth(self, ticket: Ticket) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [1, 6] and label [1] of a client in a round."""
        rng = stream(9, str(ticket))
        return rng.random((1, 6), dtype=np.float32), rng.integers(0, 3, 1)

    @contextlib.contextmanager
    def served(self) -> Iterator[str]:
        """The real servicers on a free port, until the block ends; yields the address."""
        started = threading.Event()
        stopping: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        address: list[str] = []

        async def serve() -> None:
            with contextlib.closing(
                Aggregator(self.run, options=ServerOptions(), pulse=Pulse(None))
            ) as aggregator:
                server, at = await start_server(
                    aggregator,
                    certs=CertFiles.of(self.certs, "aggregator"),
                    listen="127.0.0.1:0",
                )
                stop = asyncio.Event()
                stopping.append((asyncio.get_running_loop(), stop))
                address.append(at)
                started.set()
                await stop.wait()
                await server.stop(None)

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        assert started.wait(30)
        try:
            yield address[0]
        finally:
            loop, stop = stopping[0]
            loop.call_soon_threadsafe(stop.set)
            thread.join(30)


@pytest.fixture
def tapped(tmp_path: Path) -> TappedRun:
    torch.set_num_threads(1)
    experiment = parse_experiment(TABLE, where="test")
    run = RunFolder(tmp_path / "run")
    run.write_experiment(experiment)
    make_certificates(tmp_path / "certs", client_ids=experiment.client_ids)
    return TappedRun(run=run, experiment=experiment, certs=tmp_path / "certs")


@pytest.fixture
def finished(tapped: TappedRun) -> TappedRun:
    for arm in tapped.experiment.arms:
        for round in range(ROUNDS):
            tapped.accept_round(arm.name, round)
        tapped.finish(arm.name)
    return tapped
