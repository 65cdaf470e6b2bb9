"""Flower beside Leakwatt, in an environment of its own: its mean of 50 updates, its empty round.

The deployment is what Flower documents: one SuperLink, two SuperNodes, `--insecure`, one app that
trains nothing (`flower_app`). Each of its messages starts a process; that is what is measured.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import ROOT, finish, start

__all__ = ["FlowerFailedError", "fold", "rounds"]

_STARTS_WITHIN_S = 60.0
_RUNS_WITHIN_S = 300.0
_ROUND_CLOSED = "ROUND-CLOSED"  # printed by flower_app


class FlowerFailedError(Exception):
    """Flower's deployment did not run; the benchmark goes on without its round."""


def fold(python: Path, *, n_updates: int, n_values: int) -> dict[str, float]:
    """Flower's weighted mean in a fresh process: see `flower_fold`."""
    process = start("benchmarks.flower_fold", python=python, n_updates=n_updates, n_values=n_values)
    found: dict[str, float] = finish(process)
    return found


def rounds(python: Path, folder: Path) -> list[float]:
    """Durations in s of the empty rounds of a real deployment.

    Args:
        python: of the environment with Flower.
        folder: to work in; must not exist.

    Raises:
        FlowerFailedError: it did not run to its end.
    """
    home = folder / "home"
    home.mkdir(parents=True)
    shutil.copytree(ROOT / "benchmarks" / "flower_app", folder / "app")
    programs = python.parent
    superlink = f"127.0.0.1:{_free_port()}"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "{superlink}"\n'
        "insecure = true\n"
    )
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",  # Flower starts its own programs
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    with contextlib.ExitStack() as stack:

        def serve(name: str, *words: str) -> None:
            stack.enter_context(
                _serving([str(programs / name), "--insecure", *words], folder, environment)
            )

        serve(
            *("flower-superlink", "--disable-runtime-dependency-installation"),
            *("--port", superlink.rpartition(":")[2]),
        )
        _wait_for(superlink)
        for _ in range(2):
            serve("flower-supernode", "--superlink", superlink, "--port", str(_free_port()))
        try:
            done = subprocess.run(
                [str(programs / "flwr"), "run", str(folder / "app"), "bench", "--stream"],
                check=False,  # what it printed is the better explanation
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_RUNS_WITHIN_S,
            )
        except subprocess.TimeoutExpired as error:
            raise FlowerFailedError(f"no end within {_RUNS_WITHIN_S:g} s") from error
    closed_s = [
        float(line.split()[-1]) for line in done.stdout.splitlines() if _ROUND_CLOSED in line
    ]
    if len(closed_s) < 2:
        last = (done.stdout.strip().splitlines() or ["it printed nothing"])[-1]
        raise FlowerFailedError(f"no round closed; its last line: {last:.200}")
    return [end - begin for begin, end in itertools.pairwise(closed_s)]


@contextlib.contextmanager
def _serving(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """One service in a process group of its own, so that what it starts ends with it."""
    with (folder / "services.log").open("a") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_for(address: str) -> None:
    host, _, port = address.rpartition(":")
    give_up_s = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < give_up_s:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.2)
    raise FlowerFailedError(f"no SuperLink at {address} within {_STARTS_WITHIN_S:g} s")
