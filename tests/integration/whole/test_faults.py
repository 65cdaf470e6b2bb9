"""kill -9 anything, press Ctrl-C, start again: the run goes on and ends with the same model."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from aggregator.records import StoreReader
from fedcore.layout import RunFolder

from .conftest import Started

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

ROUNDS = 100
BOARD = """
[[devices]]
name = "board"
clients = ["client-0"]
backend = "onnx"
"""


def final_weights(run: Path) -> list[str]:
    folder = RunFolder(run)
    experiment = folder.read_experiment()
    with StoreReader(folder.store_file) as store:
        return [store.rounds(experiment.run_id(arm))[-1].weights for arm in experiment.arms]


def n_closed(started: Started) -> int:
    for run in started.runs:
        store_file = RunFolder(run).store_file
        if store_file.exists():
            experiment = RunFolder(run).read_experiment()
            with StoreReader(store_file) as store:
                return sum(len(store.rounds(experiment.run_id(arm))) for arm in experiment.arms)
    return 0


def wait_for(condition: Callable[[], bool], *, what: str, within_s: float = 120) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def services(of: int) -> dict[str, psutil.Process]:
    """The running services of a cluster by module and name."""
    found = {}
    for child in psutil.Process(of).children(recursive=True):
        try:
            line = child.cmdline()
        except psutil.Error:
            continue
        if "-m" in line and line[line.index("-m") + 1].endswith(".cli"):
            name = Path(line[line.index("--config") + 1]).parent.name if "--config" in line else ""
            found[line[line.index("-m") + 1].split(".")[0] + name] = child
    return found


def kill(name: str, *, of: int) -> bool:
    """Kill a service of a cluster with SIGKILL; whether it was there."""
    with contextlib.suppress(KeyError, psutil.NoSuchProcess):
        services(of)[name].kill()
        return True
    return False


def alive(processes: dict[str, psutil.Process]) -> list[str]:
    """Which of them still run."""
    found = []
    for name, process in processes.items():
        with contextlib.suppress(psutil.NoSuchProcess):  # it may go while we look
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(name)
    return found


@pytest.fixture(scope="module")
def undisturbed(place: Callable[[], Started]) -> Started:
    started = place()
    started.experiment(rounds=ROUNDS, more=BOARD)
    done = started.run()
    assert done.returncode == 0, done.stderr
    return started


def beside(undisturbed: Started, place: Callable[[], Started]) -> Started:
    """A place with the same machine secret, so that the same bits are sent."""
    started = place()
    (started.folder / "private").mkdir()
    secret = (undisturbed.folder / "private" / "master").read_text()
    (started.folder / "private" / "master").write_text(secret)
    started.experiment(rounds=ROUNDS, more=BOARD)
    return started


def test_killed_services_come_back_and_change_nothing(
    undisturbed: Started, place: Callable[[], Started]
) -> None:
    started = beside(undisturbed, place)
    with started.going() as process:
        for at, victim in ((5, "aggregator"), (40, "edge_clientclient-0"), (80, "attacker")):
            wait_for(lambda at=at: n_closed(started) >= at, what=f"round {at}")
            wait_for(lambda v=victim: kill(v, of=process.pid), what=f"{victim} is running")
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert final_weights(started.runs[0]) == final_weights(undisturbed.runs[0])


def test_ctrl_c_stops_everything_and_the_same_command_goes_on(
    undisturbed: Started, place: Callable[[], Started]
) -> None:
    started = beside(undisturbed, place)
    with started.going() as process:
        wait_for(lambda: n_closed(started) >= 10, what="ten rounds")
        running = services(process.pid)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1].startswith("leakwatt: interrupted")
    assert alive(running) == []
    closed = n_closed(started)
    again = started.run()
    assert again.returncode == 0, again.stderr
    assert len(started.runs) == 1
    assert n_closed(started) > closed
    assert final_weights(started.runs[0]) == final_weights(undisturbed.runs[0])


def test_a_killed_cluster_leaves_no_orphans(place: Callable[[], Started]) -> None:
    started = place()
    started.experiment(rounds=500)
    with started.going() as process:
        wait_for(lambda: n_closed(started) >= 3, what="three rounds")
        running = services(process.pid)
    assert running
    wait_for(
        lambda: not alive(running),
        what="services outlived the cluster",
        within_s=60,
    )
