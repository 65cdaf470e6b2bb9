"""A client's settings: command line over TOML file over defaults, parsed strictly, once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedcore.command_line import key_value
from fedcore.errors import ConfigError
from fedcore.plan import Choice
from fedcore.strict import parse
from fedcore.toml import read_toml
from fedcore.types import check_id

__all__ = ["ClientConfig", "read_config"]

_PATHS = frozenset(
    [
        "address_file",
        "cache",
        "certs",
        "judge_key",
        "log",
        "peers",
        "pulse",
        "secret",
        "shard",
        "vault",
    ]
)


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """Everything that one client is started with.

    Paths on the command line are relative to the working folder, those in a file to its folder.

    Attributes:
        name: client id, as in its certificate.
        certs: folder with ca.crt, <name>.crt and <name>.key.
        shard: folder with shard.npz and card.json.
        secret: file with the client's secret.
        judge_key: file with the judge's public key.
        vault: folder for sealed records.
        cache: folder for the graphs of plans; "" for memory alone.
        aggregator: HOST:PORT; or else
        address_file: file that will hold it, followed when it changes.
        backend: registered backend.
        threads: CPU threads for training; 0 is the backend's choice.
        accelerator: what the backend computes on beside the CPU, by its framework's own name
            ("cuda", "CUDAExecutionProvider"); "" for the CPU alone.
        meter: registered meter and its options; "auto" takes the first that really reads.
        period_s: mean time between the meter's samples.
        energy_model: table that prices CPU time.
        baseline_s: how long to measure the idle power before the first round and after the last.
        shared_by: clients that share this host's meter.
        peers: file with the secrets that it shares with each other client; "" for none.
        metrics: HOST:PORT where Prometheus is answered; "" for nowhere.
        pulse: file touched at every answered heartbeat, for a health check; "" for none.
        log: file for the log; "" is standard error.
        verbose: whether debug lines are logged too.
    """

    name: str
    certs: str
    shard: str
    secret: str
    judge_key: str
    vault: str
    cache: str = ""
    aggregator: str = ""
    address_file: str = ""
    backend: str = "torch"
    threads: int = 0
    accelerator: str = ""
    meter: Choice = field(default_factory=lambda: Choice(name="auto"))
    period_s: float = 0.1
    energy_model: str = "generic-x86-thread"
    baseline_s: float = 0.0
    shared_by: int = 1
    peers: str = ""
    metrics: str = ""
    pulse: str = ""
    log: str = ""
    verbose: bool = False

    def __post_init__(self) -> None:
        check_id(self.name, what="client name")
        if bool(self.aggregator) == bool(self.address_file):
            raise ConfigError("give either aggregator (HOST:PORT) or address_file")
        host, _, port = self.aggregator.rpartition(":")
        if self.aggregator and not (host and port.isdecimal()):
            raise ConfigError(f"aggregator must be HOST:PORT; got {self.aggregator!r}")
        if self.threads < 0:
            raise ConfigError(f"threads must be >= 0; got {self.threads}")
        if not self.period_s > 0:
            raise ConfigError(f"period_s must be > 0; got {self.period_s}")
        if not self.baseline_s >= 0:
            raise ConfigError(f"baseline_s must be >= 0; got {self.baseline_s}")
        if self.shared_by < 1:
            raise ConfigError(f"shared_by must be >= 1; got {self.shared_by}")


def read_config(argv: Sequence[str] | None) -> ClientConfig:
    """Resolve the command line and the file that it may name.

    Raises:
        ConfigError: one line that names file or option, key and the nearest valid name.
        SystemExit: help was asked for, or an option is unknown (argparse's own exit, code 2).
    """
    given = vars(_parser().parse_args(argv))
    file = given.pop("config", None)
    table = _read_file(Path(file)) if file else {}
    if given.keys() & {"aggregator", "address_file"}:  # one replaces the other
        table = {k: v for k, v in table.items() if k not in ("aggregator", "address_file")}
    if given.keys() & {"meter", "meter_option"}:
        in_file = table.get("meter")
        given["meter"] = _meter(in_file, given.get("meter"), given.pop("meter_option", []))
    return parse(ClientConfig, {**table, **given}, where=file or "command line")


def _meter(in_file: Any, name: str | None, options: Sequence[str]) -> dict[str, Any]:
    """The file's meter, refined by the command line; another name drops the file's options."""
    kept = in_file if isinstance(in_file, dict) and name in (None, in_file.get("name")) else {}
    return {
        "name": name or kept.get("name", "auto"),
        "options": {**kept.get("options", {}), **dict(map(_meter_option, options))},
    }


def _meter_option(text: str) -> tuple[str, Any]:
    try:
        return key_value(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--meter-option {error}") from error


def _read_file(path: Path) -> dict[str, Any]:
    """The settings in a file; its paths are relative to the folder it lies in."""
    table = read_toml(path, where=str(path))
    for key in table.keys() & _PATHS:
        if table[key] and isinstance(table[key], str):
            table[key] = str(path.parent / table[key])
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leakwatt-client",
        description="Take part in a federation as one client; every phase is metered.",
        epilog="Exit codes: 0 every run is finished, 1 failed, 2 bad configuration, 3 refused by "
        "the aggregator, 128+N stopped by signal N.",
        argument_default=argparse.SUPPRESS,  # so that the file's keys and the defaults show through
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="TOML file with any of these, spelt with _ for -")
    add("--aggregator", metavar="HOST:PORT", help="where the aggregator listens; or else")
    add("--address-file", metavar="FILE", help="file that will say so; waited for and followed")
    add("--name", help="client id, as in its certificate")
    add("--certs", metavar="FOLDER", help="folder with ca.crt, NAME.crt and NAME.key")
    add("--shard", metavar="FOLDER", help="folder with shard.npz and card.json")
    add("--secret", metavar="FILE", help="the client's secret")
    add("--judge-key", metavar="FILE", help="the judge's public key (judge.pub)")
    add("--peers", metavar="FILE", help="the secrets shared with each other client (none)")
    add("--vault", metavar="FOLDER", help="where sealed records go")
    add("--cache", metavar="FOLDER", help="where the graphs of plans are kept (memory alone)")
    add("--backend", help="registered backend (torch)")
    add("--threads", type=int, metavar="N", help="CPU threads for training (the backend's choice)")
    add("--accelerator", metavar="NAME", help="what the backend computes on, e.g. cuda (the CPU)")
    add("--meter", metavar="NAME", help="registered meter (auto)")
    add("--meter-option", action="append", metavar="KEY=VALUE", help="may be repeated")
    add("--period-s", type=float, metavar="S", help="mean time between samples (0.1)")
    add("--energy-model", metavar="NAME", help="table that prices CPU time (generic-x86-thread)")
    add("--baseline-s", type=float, metavar="S", help="of idling, at begin and end (0: none)")
    add("--shared-by", type=int, metavar="N", help="clients that share this host's meter (1)")
    add("--metrics", metavar="HOST:PORT", help="answer Prometheus there (nowhere)")
    add("--pulse", metavar="FILE", help="touched at every answered heartbeat (none)")
    add("--log", metavar="FILE", help="log file (standard error)")
    add("-v", "--verbose", action="store_true", help="log debug lines too")
    return parser
