"""An attacker that is killed in the middle goes on where it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker import cli  # noqa: E402
from attacker.attacks.inverting_gradients import InvertingGradients  # noqa: E402
from fedcore.reconstructions import read_reconstructions  # noqa: E402
from fedcore.types import Ticket  # noqa: E402

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[3]
# With 32 restarts each victim is a portion of its own.
OPTIONS = ["--attack=inverting-gradients", "--restarts=32", "--iterations=100", "--threads=1"]
N_VICTIMS = 4


def command(finished, out: Path, *more: str) -> list[str]:
    where = [f"--run={finished.run.root}", f"--out={out}", "--arm=one"]
    return ["replay", *where, *OPTIONS, *more]


@pytest.fixture
def attacked(monkeypatch) -> list[Ticket]:
    """Whom this process attacks from now on."""
    tickets: list[Ticket] = []
    as_usual = InvertingGradients.reconstruct

    def noting(self, seen, known, **others):
        tickets.extend(one.ticket for one in seen)
        return as_usual(self, seen, known, **others)

    monkeypatch.setattr(InvertingGradients, "reconstruct", noting)
    return tickets


def test_a_killed_attack_goes_on_where_it_was(finished, attacked, tmp_path: Path) -> None:
    interrupted, undisturbed = tmp_path / "interrupted", tmp_path / "undisturbed"
    run_id = finished.experiment.run_id(finished.experiment.arms[0])
    portions = interrupted / run_id / "portions"
    process = subprocess.Popen(
        [sys.executable, "-m", "attacker.cli", *command(finished, interrupted)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    until_s = time.monotonic() + 120
    while not (portions / "0" / "reconstructions.json").exists():
        assert time.monotonic() < until_s
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = [
        answer.ticket
        for portion in sorted(portions.iterdir())
        if (portion / "reconstructions.json").exists()
        for answer in read_reconstructions(portion)
    ]
    assert 1 <= len(done) < N_VICTIMS

    assert cli.main(command(finished, interrupted)) == 0
    resumed = list(attacked)
    assert not set(resumed) & set(done)
    assert len(resumed) == N_VICTIMS - len(done)
    assert not portions.exists()

    assert cli.main(command(finished, undisturbed)) == 0
    whole, again = (read_reconstructions(out / run_id) for out in (undisturbed, interrupted))
    for one, other in zip(whole, again, strict=True):
        assert (one.ticket, one.certificate) == (other.ticket, other.certificate)
        for name in ("candidates", "labels", "losses", "loss_curves"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_portions_of_another_request_are_not_taken(finished, attacked, tmp_path: Path) -> None:
    run_id = finished.experiment.run_id(finished.experiment.arms[0])
    few = "--iterations=2"
    assert cli.main(command(finished, tmp_path / "out", few)) == 0
    stale = tmp_path / "out" / run_id
    shutil.copytree(stale, stale / "portions" / "0")
    attacked.clear()
    assert cli.main(command(finished, tmp_path / "out", "--iterations=3")) == 0
    assert len(attacked) == N_VICTIMS
