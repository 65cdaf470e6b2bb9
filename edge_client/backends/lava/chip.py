"""Runs an exported network in Lava's simulation of a chip, in a process that may fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fedcore.npz import read_npz
from fedcore.types import Missing

__all__ = ["INPUTS_FILE", "NETWORK_FILE", "SPIKES_FILE", "simulate"]

NETWORK_FILE, INPUTS_FILE, SPIKES_FILE = "network.net", "inputs.npy", "spikes.npz"

_TIMEOUT_S = 300.0  # a start takes 10 s, or minutes on a busy board; 512 steps then 2 s


def simulate(
    network: bytes, inputs: np.ndarray, *, timeout_s: float = _TIMEOUT_S
) -> list[np.ndarray] | Missing:
    """Spikes of every layer, as `edge_client.backends.lava.simulation.run` has them.

    Args:
        network: an HDF5 file for netx.
        inputs: [time, batch, feature...].
        timeout_s: after which the simulation is killed.

    Returns:
        uint8 [time, batch, neuron...] by layer, or why there are none.
    """
    if not np.isin(inputs, (0, 1)).all():
        return Missing(
            why="a chip's inputs are spikes, 0 or 1, and these are not; choose another encoding"
        )
    try:
        with tempfile.TemporaryDirectory(prefix="leakwatt-chip-") as name:
            folder = Path(name)
            (folder / NETWORK_FILE).write_bytes(network)
            np.save(folder / INPUTS_FILE, inputs.astype(np.uint8))
            if failure := _run(folder, timeout_s=timeout_s):
                return Missing(why=f"Lava's simulation {failure}")
            return list(read_npz((folder / SPIKES_FILE).read_bytes()).values())
    except OSError as error:  # no room on the disk, none in the memory for a process
        return Missing(why=f"Lava's simulation could not be run: {error}")


def _run(folder: Path, *, timeout_s: float) -> str:
    """Start the simulation and wait for it; returns how it failed."""
    errors = folder / "stderr"
    with errors.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", "edge_client.backends.lava.simulation", str(folder)],
            stdin=subprocess.PIPE,  # its end tells the child that this process has ended
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,  # its forks are one group
        )
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return f"did not end within {timeout_s:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if code < 0:
        return f"was killed by signal {-code}"
    lines = errors.read_text(errors="replace").splitlines()
    return f"ended with code {code}: {lines[-1] if lines else 'no word'}" if code else ""
