"""Whole runs as a person starts them: `leakwatt run`, every service a process of its own."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SMALL = """
name = "small"
seed = {seed}
n_clients = 2

[model]
name = "mlp"
input_shape = [1, 8, 8]
options = {{ hidden = [16] }}

[training]
batch_size = 1

[strategy]
name = "fedsgd"
options = {{ learning_rate = 0.1 }}

[schedule]
rounds = {rounds}
evaluate_every = 2
quorum = 2

[attack]
victim_rounds = [0, 2]
restarts = 1
iterations = 30

[[arms]]
name = "ann"

[[arms]]
name = "snn"
model = {{ spiking = true, init_gain = 3.0 }}
encoding = {{ name = "rate", n_steps = 4 }}

[[arms.defences]]
name = "clip"
options = {{ max_norm = 10.0 }}

[[arms.defences]]
name = "gaussian"
options = {{ std = 0.001 }}
"""


@dataclass(frozen=True)
class Started:
    """One folder in which runs are started."""

    folder: Path

    @property
    def command(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "testbed.cli",
            "run",
            str(self.folder / "small.toml"),
            "--quiet",
        ]

    def experiment(self, *, seed: int = 1, rounds: int = 4, more: str = "") -> None:
        (self.folder / "small.toml").write_text(SMALL.format(seed=seed, rounds=rounds) + more)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *self._folders, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    @contextlib.contextmanager
    def going(self) -> Iterator[subprocess.Popen[str]]:
        """The run as a process; whatever a test does, none is left."""
        process = subprocess.Popen(
            [*self.command, *self._folders],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def leakwatt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "testbed.cli", *arguments, *self._folders],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @property
    def _folders(self) -> list[str]:
        return ["--runs", str(self.folder / "runs"), "--private", str(self.folder / "private")]

    @property
    def runs(self) -> list[Path]:
        return sorted(p.parent for p in (self.folder / "runs").glob("*/experiment.json"))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Started]:
    return lambda: Started(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def twice(place: Callable[[], Started]) -> Started:
    """The same experiment run twice, then once with another seed, on one machine."""
    started = place()
    started.experiment(seed=1)
    for _ in range(2):
        done = started.run()
        assert done.returncode == 0, done.stderr
    started.experiment(seed=2)
    done = started.run()
    assert done.returncode == 0, done.stderr
    return started
