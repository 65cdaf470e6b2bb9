"""The local cluster: every service a process of its own, talking mutual TLS over loopback.

A client of a device with a slow link speaks to the aggregator through a relay of its own.

A service that dies is started again, because every service resumes where it was. Ctrl-C stops
them all; starting the same run again goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedcore.config import Experiment
from fedcore.devices import LinkShape
from fedcore.errors import RunError
from fedcore.layout import PrivateFolder, RunFolder
from testbed.locks import hold

__all__ = ["Cluster", "Service"]

_MAX_RESTARTS = 5
_REFUSALS = frozenset(
    {2, 3}
)  # bad configuration, refused by the aggregator: starting again is no cure
_STOP_WITHIN_S = 10.0
_LAST_LINES = 3


@dataclass
class Service:
    """One process of the cluster and how often it was started again.

    Attributes:
        name: also of its log file and certificate.
        command: module and arguments.
        python: interpreter that has what the module imports.
    """

    name: str
    command: list[str]
    log: Path
    python: str = sys.executable
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    _log_begins: int = field(default=0, repr=False)

    def start(self) -> None:
        """Start, or start again; the log is appended to."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        leash = [sys.executable, "-m", "testbed.leash", str(os.getpid()), self.python, "-m"]
        with self.log.open("ab") as log:
            self._log_begins = log.seek(0, os.SEEK_END)
            self.process = subprocess.Popen(  # noqa: S603  # our own modules
                leash + self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "OPENBLAS_NUM_THREADS": "1",  # numpy's products are small: threads only wait
                    **os.environ,
                    "PYTHONSAFEPATH": "1",  # a folder of our modules' name is no module
                },
                start_new_session=True,  # the terminal's Ctrl-C reaches the cluster alone
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs or before it was started."""
        return self.process.poll() if self.process else None

    def last_words(self) -> str:
        """The end of what it logged since it last started, for an error message."""
        logged = self.log.read_bytes()[self._log_begins :] if self.log.exists() else b""
        lines = logged.decode(errors="replace").splitlines()
        return " | ".join(lines[-_LAST_LINES:])

    def stop(self, how: signal.Signals) -> None:
        """Ask the process to end."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)


class Cluster:
    """Aggregator, clients and attacker of one run on this machine.

    Use as a context manager: leaving it stops every service.

    Args:
        experiment: of the run.
        run: public folder.
        private: the other one.
        pythons: interpreters of clients by backend; this one where a backend is not named.

    Raises:
        RunError: another cluster is already running this folder.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: RunFolder,
        private: PrivateFolder,
        *,
        pythons: Mapping[str, str] | None = None,
    ) -> None:
        self._lock = hold(run.root / "lock")
        address_file = run.root / "aggregator.address"
        address_file.unlink(missing_ok=True)
        self.aggregator = Service(
            name="aggregator",
            command=[
                "aggregator.cli",
                *("--run", str(run.root)),
                *("--certs", str(private.service("aggregator"))),
                *("--listen", "127.0.0.1:0"),
            ],
            log=run.logs / "aggregator.log",
        )
        self.links: list[Service] = []
        self.clients: list[Service] = []
        for client_id in experiment.client_ids:
            device, address = experiment.device_of(client_id), address_file
            if device.link.changes_anything:
                address = run.root / "links" / f"{client_id}.address"
                self.links.append(
                    _link(client_id, device.link, run, upstream=address_file, address=address)
                )
            self.clients.append(
                Service(
                    name=client_id,
                    command=[
                        "edge_client.cli",
                        *("--config", str(private.service(client_id) / "client.toml")),
                        *("--address-file", str(address)),
                        *("--vault", str(run.vault)),
                        *("--shared-by", str(experiment.n_clients)),
                    ],
                    log=run.logs / f"{client_id}.log",
                    python=(pythons or {}).get(device.backend, sys.executable),
                )
            )
        self.attacker = Service(
            name="attacker",
            command=[
                "attacker.cli",
                "live",
                *("--address-file", str(address_file)),
                *("--certs", str(private.service("attacker"))),
                *("--run", str(run.root)),
            ],
            log=run.logs / "attacker.log",
        )
        self.services = [self.aggregator, *self.links, *self.clients, self.attacker]

    def __enter__(self) -> Cluster:
        for service in self.services:
            service.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._lock.close()

    def watch(
        self, *, until: Callable[[], bool], on_tick: Callable[[], None], period_s: float = 0.25
    ) -> None:
        """Keep every service alive until the condition holds.

        Raises:
            RunError: a service was refused, or died too often; its last words are in the message.
        """
        while not until():
            for service in self.services:
                self._revive(service)
            on_tick()
            time.sleep(period_s)
        on_tick()

    @property
    def federation_is_over(self) -> bool:
        """Whether the aggregator finished every arm and every client has gone home."""
        return all(service.exit_code == 0 for service in (self.aggregator, *self.clients))

    @property
    def attack_is_over(self) -> bool:
        """Whether the attacker wrote its last reconstruction."""
        return self.attacker.exit_code == 0

    def stop(self) -> None:
        """Stop every service: gracefully, then by force."""
        deadline = time.monotonic() + _STOP_WITHIN_S
        for service in self.services:
            service.stop(signal.SIGTERM)
        while time.monotonic() < deadline and any(
            s.process and s.process.poll() is None for s in self.services
        ):
            time.sleep(0.05)
        for service in self.services:
            service.stop(signal.SIGKILL)
            if service.process:
                service.process.wait()

    def _revive(self, service: Service) -> None:
        code = service.exit_code
        if code in (None, 0):
            return
        if (
            code in _REFUSALS
            or service.restarts >= _MAX_RESTARTS
            or self._stopped_on_purpose(service)
        ):
            raise RunError(f"{service.name} ended with code {code}: {service.last_words()}")
        service.restarts += 1
        service.start()

    def _stopped_on_purpose(self, service: Service) -> bool:
        """The aggregator ends with 1 when the run cannot go on; a signal gives a negative code."""
        return service is self.aggregator and (service.exit_code or 0) > 0


def _link(
    client_id: str, shape: LinkShape, run: RunFolder, *, upstream: Path, address: Path
) -> Service:
    """The relay between one client and the aggregator."""
    address.parent.mkdir(parents=True, exist_ok=True)
    address.unlink(missing_ok=True)
    return Service(
        name=f"link of {client_id}",
        command=[
            "testbed.link_shaper",
            *("--upstream", str(upstream)),
            *("--address-file", str(address)),
            *("--bandwidth-mbit-s", str(shape.bandwidth_mbit_s)),
            *("--latency-ms", str(shape.latency_ms)),
            *("--loss", str(shape.loss)),
        ],
        log=run.logs / f"{client_id}-link.log",
    )
