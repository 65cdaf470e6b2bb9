"""A run folder as the services leave it, made by the same code, without the minutes of training."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from aggregator.store import Store
from edge_client.vault import Truth, Vault
from fedcore.config import Arm, Experiment, parse_experiment
from fedcore.energy import Evaluation, ModelledEnergy, Phase, PhaseRecord, PhaseReport
from fedcore.ground_truth import JudgeKey
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.plan import RoundPlan
from fedcore.reconstructions import write_reconstructions
from fedcore.seeds import stream
from fedcore.types import Missing, Reconstruction, Ticket
from fedcore.wire.messages import Hello, UploadHeader, plan_to_bytes

HOSTILE = "<script>window.pwned = 1</script>\"'><img src=x onerror=alert(1)>"
N_AUXILIARY = 200
N_TRAIN = 600

TABLE = {
    "name": "page",
    "seed": 7,
    "n_clients": 3,
    "schedule": {"rounds": 9, "quorum": 3, "evaluate_every": 3},
    "training": {"batch_size": 1},
    "attack": {"victim_rounds": [0, 4, 8], "restarts": 2, "iterations": 60},
    "arms": [
        {"name": "ann"},
        {"name": "snn", "model": {"spiking": True}, "encoding": {"n_steps": 8}},
    ],
}


@dataclass(frozen=True)
class World:
    """The folders, and the truth that a test may look at."""

    run: RunFolder
    private: PrivateFolder
    experiment: Experiment
    truths: dict[Ticket, Truth]
    answers: dict[str, list[Reconstruction]]
    hashes: dict[Ticket, str]

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.experiment.arms if arm.name == name)

    def run_id(self, name: str) -> str:
        return self.experiment.run_id(self.arm(name))

    def answer_with(self, name: str, answers: list[Reconstruction]) -> None:
        write_reconstructions(self.run.attack(self.run_id(name)), answers, request="test")


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    found = pytest.importorskip("sklearn.datasets").load_digits()
    return (found.images[:, None] / 16).astype(np.float32), found.target.astype(np.int64)


@pytest.fixture(scope="session")
def build(digits: tuple[np.ndarray, np.ndarray]) -> Callable[..., World]:
    def built(folder: Path, **changes: object) -> World:
        return build_world(folder, digits, {**TABLE, **changes})

    return built


@pytest.fixture
def make_world(tmp_path: Path, build: Callable[..., World]) -> Callable[..., World]:
    return functools.partial(build, tmp_path)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


def build_world(
    folder: Path, digits: tuple[np.ndarray, np.ndarray], table: dict[str, object]
) -> World:
    experiment = parse_experiment(table, where="test")
    run = RunFolder(folder / "runs" / experiment.id)
    private = PrivateFolder(folder / "private" / experiment.id)
    run.write_experiment(experiment)
    JudgeKey.generate().write(private=private.judge_private, public=private.judge_public)
    images, labels = digits
    with private.auxiliary_file.open("wb") as file:
        np.savez(file, inputs=images[-N_AUXILIARY:], labels=labels[-N_AUXILIARY:])
    world = World(run, private, experiment, {}, {}, {})
    store = Store(run.store_file)
    for number, client in enumerate(experiment.client_ids):
        store.greet(_hello(client, is_hostile=number == 0))
    for arm in experiment.arms:
        _federate(world, arm, digits, store=store)
        world.answers[arm.name] = _attack(world, arm)
        world.answer_with(arm.name, world.answers[arm.name])
    store.refuse(
        peer=HOSTILE, claimed="page/0/client-9", reason="unknown-client", message=f"{HOSTILE} ?"
    )
    store.close()
    return world


def _hello(client: str, *, is_hostile: bool) -> Hello:
    name = HOSTILE if is_hostile else "generic x86"
    return Hello(
        client_id=client,
        versions={"leakwatt": "0.1.0", "torch": "2.15.0", "agent": name},
        backends=("torch",),
        codecs=("f32",),
        machine_card={"board": name, "cpu": "two cores", "memory_bytes": 8_000_000_000},
    )


def _federate(
    world: World, arm: Arm, digits: tuple[np.ndarray, np.ndarray], *, store: Store
) -> None:
    experiment, run_id = world.experiment, world.experiment.run_id(arm)
    vault = Vault(world.run.vault, judge_key=world.private.judge_public)
    store.start_run(run_id, arm=arm.name)
    for number in range(arm.schedule.rounds + 1):
        plan = RoundPlan(
            run_id=run_id,
            round=number,
            experiment_digest=experiment.digest,
            model=arm.model,
            weights=hashlib.sha256(f"{run_id}{number}".encode()).hexdigest(),
            encoding=arm.encoding,
            training=arm.training,
            train=number < arm.schedule.rounds,
            evaluate=number % arm.schedule.evaluate_every == 0,
        )
        data = plan_to_bytes(plan)
        digest = hashlib.sha256(data).hexdigest()
        store.open_round(run_id, round=number, plan=data, plan_digest=digest, weights=plan.weights)
        for client in experiment.clients_of(arm):
            ticket = Ticket(run_id=run_id, round=number, client_id=client)
            if plan.train:
                truth = _batch(ticket, digits, batch_size=arm.training.batch_size)
                body = f"{ticket}".encode() * 40
                sha256 = hashlib.sha256(body).hexdigest()
                vault.seal(truth, ticket=ticket, sha256=sha256)
                world.truths[ticket], world.hashes[ticket] = truth, sha256
                header = UploadHeader(
                    ticket=ticket,
                    attempt=0,
                    plan_digest=digest,
                    n_bytes=len(body),
                    sha256=sha256,
                )
                store.accept(header, n_examples=len(truth.labels), kind="gradient")
            store.save_report(_report(ticket, plan))
        store.close_round(
            run_id, round=number, weights=plan.weights, state=plan.weights, n_accepted=3
        )
    store.finish_run(run_id)


def _batch(ticket: Ticket, digits: tuple[np.ndarray, np.ndarray], *, batch_size: int) -> Truth:
    images, labels = digits
    rng = stream(1, "batch", ticket.round, ticket.client_id)  # the same in both arms
    chosen = rng.choice(N_TRAIN, size=batch_size, replace=False)
    return Truth.copy_of(
        inputs=[images[chosen]], labels=[labels[chosen]], encoded=[images[chosen][None]]
    )


def _report(ticket: Ticket, plan: RoundPlan) -> PhaseReport:
    rng = stream(2, str(ticket))
    slower = 2.2 if plan.model.spiking else 1.0
    seconds = {
        Phase.IDLE: 0.05,
        Phase.RECEIVE: 0.004,
        Phase.EVALUATE: 0.03 * slower,
        Phase.ENCODE: 0.001 * slower,
        Phase.TRAIN: 0.02 * slower,
        Phase.DEFEND: 0.0002,
        Phase.SUBMIT: 0.006,
    }
    if not plan.evaluate:
        del seconds[Phase.EVALUATE]
    phases, start_ns = [], 0
    for phase, mean_s in seconds.items():
        duration_s = float(mean_s * rng.uniform(0.8, 1.3))
        cpu_s = duration_s * (0.05 if phase is Phase.IDLE else 0.95)
        phases.append(
            PhaseRecord(
                phase=phase,
                start_mono_ns=start_ns,
                duration_s=duration_s,
                cpu_s=cpu_s,
                measured=Missing(why="no energy sensor on this machine"),
                modelled=ModelledEnergy(
                    energy_j=5 * cpu_s,
                    low_j=2 * cpu_s,
                    high_j=11 * cpu_s,
                    model="generic-x86-thread",
                    inputs=f"{cpu_s:.4f} CPU-s",
                ),
            )
        )
        start_ns += round(duration_s * 1e9)
    n_correct = round(100 * (1 - 0.9 * 0.8**ticket.round)) if plan.evaluate else 0
    return PhaseReport(
        ticket=ticket,
        attempt=0,
        phases=tuple(phases),
        evaluation=Evaluation(n_correct=n_correct, n_examples=100, mean_loss=1.0)
        if plan.evaluate
        else None,
        clock_offset_s=0.0,
        clock_uncertainty_s=1e-4,
        machine_card="0" * 64,
    )


def _attack(world: World, arm: Arm) -> list[Reconstruction]:
    """Near misses for the conventional arm, blurred noise for the spiking one."""
    answers = []
    for ticket, truth in world.truths.items():
        if ticket.round not in arm.attack.victim_rounds or ticket.run_id != world.run_id(arm.name):
            continue
        rng = stream(3, str(ticket))
        spread = 0.35 if arm.model.spiking else 0.05
        noise = rng.normal(0, spread, (2, *truth.inputs.shape))
        curves = np.geomspace(1, 0.02 + spread, 30)[None] * np.array([[1.0], [1.3]])
        answers.append(
            Reconstruction(
                ticket=ticket,
                sha256=world.hashes[ticket],
                attack=arm.attack.name,
                candidates=np.clip(truth.inputs + noise * [[[[[1.0]]]], [[[[2.0]]]]], 0, 1).astype(
                    np.float32
                ),
                labels=np.stack([truth.labels, (truth.labels + 1) % 10]),
                losses=curves[:, -1],
                loss_curves=curves,
                n_iterations=arm.attack.iterations,
                duration_s=0.4,
            )
        )
    return answers
