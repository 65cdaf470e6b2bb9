"""A round with a client on 64-bit Arm: `make test-arm64`.

The aggregator and a client on torch run here. The other client runs in a container of an Arm image
(emulated where this machine is no Arm), with ONNX Runtime from the wheel and from
deploy/constraints-board.txt, and joins over the container's network. It is given its own folder of
certificates and shard, read-only, and the vault; nothing else of the run.

Then the store must say that all its updates were accepted and its evaluations came, and that its
machine is aarch64; and what it sent must be, to 1e-4 of each tensor's largest value, what
`OnnxBackend` computes here for the same secret and round. It tells of every step whether it holds;
the first that does not ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aggregator.records import PlanRow, StoreReader
from edge_client.backends.onnx_backend import OnnxBackend
from edge_client.client import choose_batches
from fedcore.config import Experiment, parse_experiment
from fedcore.data.encodings import encode
from fedcore.data.shards import read_shard
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.seeds import ClientSecret
from fedcore.tensors import schema_of, unpack_weights
from fedcore.types import TensorMap, Ticket
from fedcore.update_blob import unpack_update
from testbed.cluster import Service
from testbed.deploy.package import package_for
from testbed.experiment import check, prepare
from tests.board.deploy import told

HERE, BOARD = "client-0", "client-1"
N_ROUNDS = 3
TOLERANCE = 1e-4
CONSTRAINTS = Path(__file__).parents[2] / "deploy" / "constraints-board.txt"
PROCESSOR = "cortex-a72"  # a Raspberry Pi 4's; the emulator's own default crashes some wheels
HOST = "host.docker.internal"
EXPERIMENT = {
    "name": "arm64",
    "n_clients": 2,
    "devices": [{"name": "board", "clients": [BOARD], "backend": "onnx", "threads": 1}],
    "model": {"name": "convnet", "spiking": True, "input_shape": [1, 8, 8], "init_gain": 2.5},
    "encoding": {"name": "rate", "n_steps": 8},
    "training": {"batch_size": 4},
    "schedule": {"rounds": N_ROUNDS, "evaluate_every": 1},
}


def main() -> None:
    """Install, take part, check, print."""
    parser = argparse.ArgumentParser(description="A round with a client in an Arm container.")
    parser.add_argument("--image", required=True, help="with Python 3.11 and pip")
    parser.add_argument("--platform", default="", help="of the image, where it names one")
    args = parser.parse_args()
    experiment = parse_experiment(EXPERIMENT, where="arm64")
    check(experiment, where="arm64")
    with tempfile.TemporaryDirectory() as name:
        run, private = RunFolder(Path(name) / "run"), PrivateFolder(Path(name) / "private")
        prepare(experiment, run, private, master_file=Path(name) / "master", where="arm64")
        wheel = Path(package_for("", scratch=Path(name)))
        with board(args.image, args.platform, wheel=wheel, run=run, private=private) as container:
            begun_s = time.monotonic()
            install(container, wheel)
            told(f"installed in {time.monotonic() - begun_s:.0f} s", True)
            started_wall_ns = federate(container, run, private)
        report(experiment, run, private, started_wall_ns=started_wall_ns)


@contextlib.contextmanager
def board(
    image: str, platform_name: str, *, wheel: Path, run: RunFolder, private: PrivateFolder
) -> Iterator[str]:
    """A container that idles; its id."""
    command = ["docker", "run", "--detach", "--init", f"--env=QEMU_CPU={PROCESSOR}"]
    command += [f"--platform={platform_name}"] if platform_name else []
    for source, target in (
        (wheel, f"/{wheel.name}:ro"),
        (CONSTRAINTS, "/constraints.txt:ro"),
        (private.service(BOARD), "/service:ro"),
        (run.vault, "/vault"),
    ):
        command += ["--volume", f"{source.absolute()}:{target}"]
    command += [f"--add-host={HOST}:host-gateway", image, "sleep", "infinity"]
    container = subprocess.check_output(command, text=True).strip()
    try:
        yield container
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)


def install(container: str, wheel: Path) -> None:
    """Leakwatt's client for boards, as pip finds it for the container's processor."""
    pip = ["pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    wanted = ["--constraint", "/constraints.txt", f"/{wheel.name}[edge-onnx]"]
    subprocess.run(["docker", "exec", container, *pip, *wanted], check=True)


def federate(container: str, run: RunFolder, private: PrivateFolder) -> int:
    """Run the federation to its end; return when the container's client was started."""
    address_file = run.root / "aggregator.address"
    aggregator = Service(
        name="aggregator",
        command=[
            *("aggregator.cli", "--run", str(run.root), "--listen", "0.0.0.0:0", "--grace-s", "1"),
            *("--certs", str(private.service("aggregator"))),
        ],
        log=run.logs / "aggregator.log",
    )
    beside = Service(
        name=HERE,
        command=[
            *("edge_client.cli", "--config", str(private.service(HERE) / "client.toml")),
            *("--address-file", str(address_file), "--vault", str(run.vault)),
        ],
        log=run.logs / f"{HERE}.log",
    )
    services = [aggregator, beside]
    try:
        for service in services:
            service.start()
        while not address_file.exists() and aggregator.exit_code is None:
            time.sleep(0.05)
        port = address_file.read_text().strip().rpartition(":")[2]
        started_wall_ns = time.time_ns()
        client = ["leakwatt-client", "--config", "/service/client.toml", "--vault", "/vault"]
        subprocess.run(
            [
                *("docker", "exec", "--user", f"{os.getuid()}:{os.getgid()}", container, *client),
                *("--aggregator", f"{HOST}:{port}", "--cache", "/tmp/cache"),  # noqa: S108
            ],
            check=True,
        )
        for service in services:
            if service.process is None or service.process.wait():
                raise SystemExit(f"{service.name} failed: {service.last_words()}")
    finally:
        for service in services:
            if service.process is not None:
                service.process.kill()
                service.process.wait()
    return started_wall_ns


def report(
    experiment: Experiment, run: RunFolder, private: PrivateFolder, *, started_wall_ns: int
) -> None:
    """What the store holds of the board's client."""
    (arm,) = experiment.arms
    run_id = experiment.run_id(arm)
    with StoreReader(run.store_file) as store:
        (hello,) = [row.hello for row in store.clients() if row.client_id == BOARD]
        card, versions = hello["machine_card"], hello["versions"]
        told(f"on {card['os']}, Python {card['python']}, {versions}", True)
        told("its machine is aarch64", card["architecture"] == "aarch64")
        rated = {t.round: e for t, e in store.evaluations(run_id) if t.client_id == BOARD}
        told("it evaluated every round", rated.keys() == set(range(N_ROUNDS + 1)))
        for number in range(N_ROUNDS):
            ticket = Ticket(run_id=run_id, round=number, client_id=BOARD)
            plan, accepted = store.plan(run_id, round=number), store.acceptance(ticket)
            if plan is None or accepted is None:
                sys.exit(f"FAILS  its update of round {number} was accepted")
            after_s = (accepted.received_wall_ns - started_wall_ns) / 1e9
            told(f"its update of round {number} was accepted {after_s:.1f} s after its start", True)
            told("its record is sealed", run.sealed_file(ticket, accepted.sha256).exists())
            apart = distance(run, private, plan, sha256=accepted.sha256)
            told(f"from {platform.machine()}'s it differs by {apart:.1e}", apart <= TOLERANCE)


def distance(run: RunFolder, private: PrivateFolder, row: PlanRow, *, sha256: str) -> float:
    """Largest difference between what came and what comes out here, relative to each tensor's."""
    plan = row.parsed()
    weights = unpack_weights((run.artefacts / plan.weights).read_bytes())
    came = unpack_update(
        (run.journal / sha256).read_bytes(),
        schema=schema_of(weights),
        plan_digest=row.digest,
        codec=plan.codec,
    ).tensors
    backend = OnnxBackend(threads=1)
    backend.load(plan, weights, fetch=lambda digest: (run.artefacts / digest).read_bytes())
    shard = read_shard(private.service(BOARD))
    secret = ClientSecret.read(private.secret_file(BOARD))
    draws = {
        purpose: secret.stream(purpose, plan.experiment_digest, plan.round)
        for purpose in ("batch", "encode", "model")
    }
    batches = choose_batches(len(shard.labels), training=plan.training, rng=draws["batch"])
    spikes = [encode(plan.encoding, shard.inputs[batch], draws["encode"]) for batch in batches]
    labels = [shard.labels[batch] for batch in batches]
    here = backend.train(spikes, labels, noise=draws["model"])
    return largest_difference(came, here)


def largest_difference(came: TensorMap, here: TensorMap) -> float:
    """Relative to each tensor's largest value; infinite where a tensor is zero here alone."""
    apart = []
    for name, tensor in here.items():
        gap, scale = np.abs(came[name] - tensor).max(), np.abs(tensor).max()
        apart.append(gap / scale if scale else np.inf * bool(gap))
    return float(max(apart))


if __name__ == "__main__":
    main()
