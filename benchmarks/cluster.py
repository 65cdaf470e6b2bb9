"""A real aggregator process, with mutual TLS, admission, journal and store, and fast clients."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.fast_client import Durations, weights
from benchmarks.processes import ROOT, finish, start
from fedcore.config import Experiment, parse_experiment
from fedcore.layout import RunFolder
from fedcore.tensors import pack_weights

__all__ = ["run_cluster"]

_STARTS_WITHIN_S = 60.0


def run_cluster(
    folder: Path,
    certs: Path,
    *,
    n_values: int,
    n_clients: int,
    n_rounds: int,
    bare_address: str | None = None,
    bare_tls_address: str | None = None,
) -> list[Durations]:
    """Run an experiment to its end and return what each client saw.

    Args:
        folder: of the run; must not exist.
        certs: of the aggregator and of client-0, client-1 ...
        n_values: float32 values of the model.
        n_clients: client processes.
        n_rounds: training rounds.
        bare_address: where each client sends its blobs beside the aggregator, in plain text.
        bare_tls_address: the same with mutual TLS.
    """
    experiment = _prepare(folder, n_values=n_values, n_clients=n_clients, n_rounds=n_rounds)
    log = folder / "aggregator.log"
    aggregator = subprocess.Popen(
        [
            *(sys.executable, "-m", "aggregator.cli", "--run", str(folder)),
            *("--certs", str(certs), "--listen", "127.0.0.1:0", "--grace-s", "0.5"),
            *("--log", str(log)),
        ],
        cwd=ROOT,
    )
    try:
        address = _wait_for_address(folder / "aggregator.address", aggregator)
        clients = [
            start(
                "benchmarks.fast_client",
                certs=certs,
                name=name,
                n_values=n_values,
                address=address,
                bare_address=bare_address,
                bare_tls_address=bare_tls_address,
            )
            for name in experiment.client_ids
        ]
        seen = [Durations(**finish(client)) for client in clients]
        if aggregator.wait():
            raise SystemExit(log.read_text())
    finally:
        aggregator.kill()
        aggregator.wait()
    return seen


def _prepare(folder: Path, *, n_values: int, n_clients: int, n_rounds: int) -> Experiment:
    """Write what the aggregator needs: the experiment and the initial weights."""
    experiment = parse_experiment(
        {
            "name": "bench",
            "n_clients": n_clients,
            "schedule": {"rounds": n_rounds, "quorum": 1, "evaluate_every": n_rounds + 1},
        },
        where="benchmark",
    )
    run = RunFolder(folder)
    run.write_experiment(experiment)
    run.artefacts.mkdir()
    blob = pack_weights(weights(n_values))
    sha256 = hashlib.sha256(blob).hexdigest()
    (run.artefacts / sha256).write_bytes(blob)
    run.initial_file.write_text(json.dumps({"main": sha256}))
    return experiment


def _wait_for_address(path: Path, aggregator: subprocess.Popen[bytes]) -> str:
    give_up_s = time.monotonic() + _STARTS_WITHIN_S
    while not path.exists():
        if aggregator.poll() is not None or time.monotonic() > give_up_s:
            raise SystemExit("the aggregator did not start")
        time.sleep(0.02)
    return path.read_text().strip()
