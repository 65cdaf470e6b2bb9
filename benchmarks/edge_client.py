"""What a client without torch takes of a board: disk, memory, and time to its first update.

Disk: `pip install leakwatt[edge-onnx]` from this checkout into a new environment. Memory and time:
federations of a spiking LeNet with one client each, on ONNX Runtime from that environment and on
torch from this one, by turns. The aggregator is up when the client starts: `first_s` is the time
from the start of its process to the acceptance of its first update in the aggregator's store,
`peak_mb` the most resident memory of the process (VmHWM) until it went home.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aggregator.records import StoreReader
from fedcore.config import Experiment, parse_experiment
from fedcore.layout import PrivateFolder, RunFolder
from testbed.cluster import Service
from testbed.deploy.package import package_for
from testbed.experiment import check, prepare

__all__ = ["measure_clients"]

BACKENDS = ("onnx", "torch")
CLIENT = "client-0"
_POLL_S = 0.02
_NOT_OURS = ("pip", "setuptools", "_distutils_hack")  # come with every environment


@dataclass(frozen=True, kw_only=True)
class Taken:
    """By one client in one federation.

    Attributes:
        first_s: from the start of its process to the acceptance of its first update.
        peak_mb: resident memory, in MB (10^6 bytes).
    """

    first_s: float
    peak_mb: float


def measure_clients(*, turns: int) -> None:
    """Install, federate by turns, print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python, figures = _install(folder)
        pythons = {"onnx": python, "torch": Path(sys.executable)}
        taken: dict[str, list[Taken]] = {backend: [] for backend in BACKENDS}
        for turn in range(turns):
            for backend in BACKENDS:
                place = folder / f"{backend}-{turn}"
                taken[backend].append(_federate(backend, place, python=pythons[backend]))
    print("RESULT", *(f"{k}={v}" for k, v in {**figures, **_table(taken)}.items()))


def _install(folder: Path) -> tuple[Path, dict[str, str]]:
    """A new environment's interpreter, and the figures of its size and making."""
    wheel = package_for("", scratch=folder)
    place = folder / "environment"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    begun_s = time.perf_counter()
    subprocess.run([*pip, f"{wheel}[edge-onnx]"], check=True)
    install_s = time.perf_counter() - begun_s
    (site,) = place.glob("lib/*/site-packages")
    packages = {path.name: _bytes_on_disk(path) for path in site.iterdir()}
    versions = sorted(n.removesuffix(".dist-info") for n in packages if n.endswith(".dist-info"))
    print(f"Python {platform.python_version()}:", *versions)
    whole = _bytes_on_disk(place)
    tools = sum(size for n, size in packages.items() if n.partition("-")[0] in _NOT_OURS)
    print(f"installed size {whole / 1e6:.0f} MB, of it {tools / 1e6:.0f} MB pip and setuptools")
    for package, size in sorted(packages.items(), key=lambda item: -item[1])[:5]:
        print(f"  {package:16} {size / 1e6:6.1f} MB")
    return python, {
        "installed_mb": f"{whole / 1e6:.0f}",
        "installed_tools_mb": f"{tools / 1e6:.0f}",
        "install_s": f"{install_s:.0f}",
    }


def _bytes_on_disk(path: Path) -> int:
    """As `du` counts: whole blocks; links are not followed."""
    return 512 * sum(file.lstat().st_blocks for file in (path, *path.rglob("*")))


def _experiment(backend: str) -> Experiment:
    experiment = parse_experiment(
        {
            "name": backend,
            "n_clients": 1,
            "devices": [{"name": "board", "clients": [CLIENT], "backend": backend}],
            "model": {"name": "lenet", "spiking": True, "init_gain": 2.5},
            "encoding": {"name": "rate", "n_steps": 8},
            "training": {"batch_size": 16},
            "schedule": {"rounds": 20, "evaluate_every": 10, "quorum": 1},
        },
        where="benchmark",
    )
    check(experiment, where="benchmark")
    return experiment


def _federate(backend: str, folder: Path, *, python: Path) -> Taken:
    """One federation with one client, which finds the aggregator waiting."""
    experiment = _experiment(backend)
    run, private = RunFolder(folder / "run"), PrivateFolder(folder / "private")
    prepare(experiment, run, private, master_file=folder / "master", where="benchmark")
    address_file = run.root / "aggregator.address"
    aggregator = Service(
        name="aggregator",
        command=[
            *("aggregator.cli", "--run", str(run.root), "--listen", "127.0.0.1:0"),
            *("--certs", str(private.service("aggregator")), "--grace-s", "0.1"),
        ],
        log=run.logs / "aggregator.log",
    )
    client = Service(
        name=CLIENT,
        command=[
            *("edge_client.cli", "--config", str(private.service(CLIENT) / "client.toml")),
            *("--address-file", str(address_file), "--vault", str(run.vault)),
        ],
        log=run.logs / f"{CLIENT}.log",
        python=str(python),
    )
    aggregator.start()
    while not address_file.exists() and aggregator.exit_code is None:
        time.sleep(_POLL_S)
    started_wall_ns = time.time_ns()
    client.start()
    peak_mb = _peak_mb(client)
    for service in (client, aggregator):
        if service.process is None or service.process.wait():
            raise SystemExit(f"{service.name} failed: {service.last_words()}")
    with StoreReader(run.store_file) as store:
        first, *_ = store.updates(experiment.run_id(experiment.arms[0]))
    return Taken(first_s=(first.received_wall_ns - started_wall_ns) / 1e9, peak_mb=peak_mb)


def _peak_mb(client: Service) -> float:
    """Looked up until it ends."""
    peak_mb = 0.0
    while client.process is not None and client.exit_code is None:
        status = Path(f"/proc/{client.process.pid}/status").read_text()
        if "VmHWM:" in status:  # a process that has ended has none
            peak_mb = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
        time.sleep(_POLL_S)
    return peak_mb


def _table(taken: Mapping[str, list[Taken]]) -> dict[str, str]:
    """Print it; its figures by name."""
    figures: dict[str, str] = {}
    for backend, each in taken.items():
        all_s = [one.first_s for one in each]
        first_s, peak_mb = statistics.median(all_s), max(one.peak_mb for one in each)
        print(
            f"{backend:6} first update after {first_s:5.2f} s (least {min(all_s):5.2f} s)  "
            f"peak memory {peak_mb:4.0f} MB"
        )
        figures |= {f"{backend}_first_s": f"{first_s:.2f}", f"{backend}_peak_mb": f"{peak_mb:.0f}"}
    return figures
