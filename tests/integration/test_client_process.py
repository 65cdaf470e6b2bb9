"""Real client processes and a real aggregator process: kill what you like, the run gets through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from aggregator.journal import BlobFolder
from aggregator.records import StoreReader
from fedcore.config import Experiment, parse_experiment
from fedcore.data.shards import prepare, read_shard
from fedcore.energy import ModelledEnergy, Phase
from fedcore.errors import RunError
from fedcore.ground_truth import JudgeKey, open_record
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.nn.models import initial_weights
from fedcore.seeds import ClientSecret
from fedcore.strict import canonical_json
from fedcore.tensors import pack_weights
from fedcore.types import Missing
from testbed.certs import make_certificates

pytestmark = [pytest.mark.torch, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0


def experiment(*, rounds: int) -> Experiment:
    return parse_experiment(
        {
            "name": "processes",
            "seed": 3,
            "n_clients": 2,
            "data": {"max_examples": 200},
            "model": {"name": "mlp", "spiking": True, "options": {"hidden": [16]}},
            "encoding": {"name": "rate", "n_steps": 4},
            "training": {"batch_size": 4},
            "defences": [{"name": "clip"}, {"name": "gaussian", "options": {"std": 1e-3}}],
            "schedule": {"rounds": rounds, "evaluate_every": rounds, "quorum": 2},
        },
        where="test",
    )


@dataclass
class Place:
    """A prepared run and the processes that were started on it."""

    experiment: Experiment
    run: RunFolder
    private: PrivateFolder
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        return self.experiment.run_id(self.experiment.arms[0])

    def prepare(self) -> None:
        clients = self.experiment.client_ids
        make_certificates(self.private.root, client_ids=clients)
        prepare(
            self.experiment.data,
            client_ids=clients,
            seed=self.experiment.seed,
            client_folder=self.private.service,
            auxiliary_file=self.private.auxiliary_file,
        )
        JudgeKey.generate().write(
            private=self.private.judge_private, public=self.private.judge_public
        )
        for i, client_id in enumerate(clients):
            ClientSecret(bytes([i] * 32)).write(self.private.secret_file(client_id))
        blob = pack_weights(initial_weights(self.experiment.arms[0].model, self.experiment.seed))
        self.run.write_experiment(self.experiment)
        digest = BlobFolder(self.run.artefacts).put(blob)
        self.run.initial_file.write_bytes(canonical_json({"main": digest}))

    def start(self, module: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        log = (self.run.root / "processes.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        log.close()
        self.started.append(process)
        return process

    def start_aggregator(self) -> subprocess.Popen[bytes]:
        return self.start(
            "aggregator.cli",
            *("--run", self.run.root),
            *("--certs", self.private.root),
            *("--listen", "127.0.0.1:0"),
        )

    def start_client(self, client_id: str) -> subprocess.Popen[bytes]:
        return self.start(
            "edge_client.cli",
            *("--address-file", self.run.root / "aggregator.address"),
            *("--name", client_id),
            *("--certs", self.private.root),
            *("--shard", self.private.service(client_id)),
            *("--secret", self.private.secret_file(client_id)),
            *("--judge-key", self.private.judge_public),
            *("--vault", self.run.vault),
            *("--meter", "null"),
            *("--shared-by", "2"),
        )

    def update_hashes(self) -> list[tuple[int, str, str]]:
        try:
            with StoreReader(self.run.store_file) as store:
                found = store.updates(self.run_id)
        except RunError:  # not there, or being made
            return []
        return sorted((u.ticket.round, u.ticket.client_id, u.sha256) for u in found)

    def words(self) -> str:
        return (self.run.root / "processes.log").read_text()


@pytest.fixture
def place_for(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    places: list[Place] = []

    def make(name: str, *, rounds: int) -> Place:
        root = tmp_path / name
        place = Place(
            experiment(rounds=rounds), RunFolder(root / "run"), PrivateFolder(root / "own")
        )
        place.prepare()
        places.append(place)
        return place

    yield make
    for process in [p for place in places for p in place.started]:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], place: Place) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, place.words()
        time.sleep(0.02)


def test_a_run_of_processes_survives_kills_and_sends_the_same_bits(
    place_for: Callable[..., Place],
) -> None:
    rounds = 12
    calm, rough = (place_for(name, rounds=rounds) for name in ("calm", "rough"))
    going = [calm.start_aggregator(), *map(calm.start_client, calm.experiment.client_ids)]
    for process in going:
        assert process.wait(WAIT_S) == 0, calm.words()

    aggregator = rough.start_aggregator()
    first, second = map(rough.start_client, rough.experiment.client_ids)
    wait_until(lambda: len(rough.update_hashes()) >= 4, rough)
    first.send_signal(signal.SIGKILL)
    first.wait()
    first = rough.start_client("client-0")
    wait_until(lambda: len(rough.update_hashes()) >= 8, rough)
    aggregator.kill()
    aggregator.wait()
    aggregator = rough.start_aggregator()  # on another port
    for process in (aggregator, first, second):
        assert process.wait(WAIT_S) == 0, rough.words()

    hashes = calm.update_hashes()
    assert len(hashes) == 2 * rounds
    assert rough.update_hashes() == hashes
    check_what_was_left_behind(calm)


def check_what_was_left_behind(place: Place) -> None:
    judge = JudgeKey.read(place.private.judge_private)
    with StoreReader(place.run.store_file) as store:
        updates = store.updates(place.run_id)
        reports = {(r.ticket.round, r.ticket.client_id): r for r in store.reports(place.run_id)}
        cards = {row.client_id: row.card for row in store.clients()}
    for update in updates:
        sealed = place.run.sealed_file(update.ticket, update.sha256)
        record = open_record(sealed.read_bytes(), key=judge)
        assert (record.ticket, record.sha256) == (update.ticket, update.sha256)
        shard = read_shard(place.private.service(update.ticket.client_id))
        for image in record.inputs:
            assert (shard.inputs == image).all(axis=(1, 2, 3)).any()
        report = reports[(update.ticket.round, update.ticket.client_id)]
        assert report.machine_card == cards[update.ticket.client_id]
        expected = (
            set(Phase)
            - {Phase.PROFILE}
            - ({Phase.EVALUATE} if report.evaluation is None else set())
        )
        assert {phase.phase for phase in report.phases} == expected
        for phase in report.phases:
            assert phase.duration_s > 0
            assert isinstance(phase.measured, Missing)
            assert phase.measured.why
            assert isinstance(phase.modelled, ModelledEnergy)
    closing = [reports[(12, client_id)] for client_id in place.experiment.client_ids]
    for report in closing:
        shard = read_shard(place.private.service(report.ticket.client_id))
        assert report.evaluation is not None
        assert report.evaluation.n_examples == len(shard.eval_labels)
        assert np.isfinite(report.evaluation.mean_loss)


def test_a_stopped_client_ends_at_once_and_says_by_what(place_for: Callable[..., Place]) -> None:
    place = place_for("stopped", rounds=2)
    client = place.start_client("client-0")  # there is no aggregator: it waits for the address
    wait_until(lambda: "address is not known yet" in place.words(), place)
    client.send_signal(signal.SIGTERM)
    assert client.wait(WAIT_S) == 128 + signal.SIGTERM
    assert "Traceback" not in place.words()


def test_a_client_that_is_refused_says_so_in_one_line(place_for: Callable[..., Place]) -> None:
    place = place_for("refused", rounds=2)
    strangers = place.private.root / "strangers"
    place.start_aggregator()
    wait_until((place.run.root / "aggregator.address").exists, place)
    for suffix in ("crt", "key"):  # client-1's certificate under client-0's name
        strangers.mkdir(exist_ok=True)
        (strangers / f"client-0.{suffix}").symlink_to(place.private.root / f"client-1.{suffix}")
    (strangers / "ca.crt").symlink_to(place.private.root / "ca.crt")
    client = place.start(
        "edge_client.cli",
        *("--address-file", place.run.root / "aggregator.address"),
        *("--name", "client-0"),
        *("--certs", strangers),
        *("--shard", place.private.service("client-0")),
        *("--secret", place.private.secret_file("client-0")),
        *("--judge-key", place.private.judge_public),
        *("--vault", place.run.vault),
    )
    assert client.wait(WAIT_S) == 3, place.words()
    (line,) = [line for line in place.words().splitlines() if line.startswith("leakwatt-client:")]
    assert "wrong-identity" in line
