"""The interpreters that a local cluster's clients run on, asked before anything starts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from edge_client.backends.base import factory_of
from fedcore.config import Experiment
from fedcore.errors import ConfigError

__all__ = ["check_interpreters"]

_ASK = "import sys; from edge_client.backends.base import BACKENDS; BACKENDS.get(sys.argv[1])"
_TIMEOUT_S = 300.0  # lava-dl from a cold disk takes a minute


def check_interpreters(experiment: Experiment, pythons: Mapping[str, str]) -> None:
    """Every client's backend can be imported where the client will run.

    Args:
        experiment: names the devices.
        pythons: interpreters by backend; this one where a backend is not named.

    Raises:
        ConfigError: an interpreter does not have what its backend needs, or no client needs it.
        PluginError: this one does not.
    """
    backends = {experiment.device_of(client).backend for client in experiment.client_ids}
    if idle := sorted(pythons.keys() - backends):
        raise ConfigError(
            f"--python {idle[0]}={pythons[idle[0]]}: no client runs on backend {idle[0]!r}, only "
            f"on {', '.join(sorted(backends))}; leave it out, or name a device of that backend"
        )
    for backend in sorted(backends):
        if backend in pythons:
            _ask(pythons[backend], backend)
        else:
            factory_of(backend)


def _ask(python: str, backend: str) -> None:
    command = [python, "-c", _ASK, backend]
    try:
        done = subprocess.run(  # noqa: S603  # the interpreter that was named
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, "PYTHONSAFEPATH": "1"},  # as the client will run
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    else:
        if not done.returncode:
            return
        failure = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise ConfigError(
        f"--python {backend}={python}: {failure.removeprefix('fedcore.errors.PluginError: ')}; "
        f"install 'leakwatt[edge-{backend}]' there"
    )
