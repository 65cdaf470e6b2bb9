"""The boards file: which client runs on which machine, strict TOML as everywhere."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fedcore.config import Experiment
from fedcore.errors import ConfigError
from fedcore.layout import PrivateFolder
from fedcore.plan import Choice
from fedcore.registry import nearest
from fedcore.strict import build, parse
from fedcore.toml import read_toml
from fedcore.types import check_id
from hardware.registry import METERS

__all__ = ["BACKEND_OF", "Board", "Boards", "check_boards", "files_for", "load_boards"]

BACKEND_OF = {"edge-torch": "torch", "edge-onnx": "onnx", "edge-lava": "lava"}
"""Extra of the distribution -> backend that it makes work."""

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*")  # a name or an address, never an option of ssh
_USER = re.compile(r"[a-z_][a-z0-9_.-]*")
_NEEDED = ("client.toml", "secret", "judge.pub", "ca.crt", "shard.npz", "card.json")


@dataclass(frozen=True, kw_only=True)
class Board:
    """One machine and the client that it gets.

    Paths are relative to the boards file, and may begin with "~".

    Attributes:
        client: id of the client.
        host: name or address.
        user: who logs in; must be allowed to sudo.
        port: of its SSH server.
        key: private key file; "" for what ssh finds by itself.
        known_hosts: file with the board's host key; "" for the user's own.
        extra: what of Leakwatt is installed; must give the backend that the experiment names.
        python: interpreter on the board; "" for its python3.
        torch: URL or path on the board of a wheel of torch that is to be used ("" for the pinned).
        meter: replaces the experiment's on this board.
    """

    client: str
    host: str
    user: str
    port: int = 22
    key: str = ""
    known_hosts: str = ""
    extra: Literal["edge-torch", "edge-onnx", "edge-lava"] = "edge-torch"
    python: str = ""
    torch: str = ""
    meter: Choice | None = None

    def __post_init__(self) -> None:
        check_id(self.client, what="client")
        if not _HOST.fullmatch(self.host):
            raise ConfigError(f"host must be a name or an address; got {self.host!r}")
        if not _USER.fullmatch(self.user):
            raise ConfigError(f"user must be a user's name; got {self.user!r}")
        if not 0 < self.port < 65536:
            raise ConfigError(f"port must lie in [1, 65535]; got {self.port}")
        if self.torch and self.extra != "edge-torch":
            raise ConfigError(f"torch is for extra edge-torch; got extra {self.extra!r}")


@dataclass(frozen=True, kw_only=True)
class Boards:
    """All of a run.

    Attributes:
        run: the prepared run's name or folder, or "latest".
        aggregator: HOST:PORT as the boards reach it.
        boards: one per client that runs on a board; other clients are started by hand.
        leakwatt: what is installed: "" for this checkout, else a wheel file or a version.
        index: package index that pip on the boards asks beside its own, e.g. one with CPU builds
            of torch.
    """

    run: str
    aggregator: str
    boards: tuple[Board, ...]
    leakwatt: str = ""
    index: str = ""

    def __post_init__(self) -> None:
        host, _, port = self.aggregator.rpartition(":")
        if not (_HOST.fullmatch(host) and port.isdecimal()):
            raise ConfigError(f"aggregator must be HOST:PORT; got {self.aggregator!r}")
        if host in ("localhost", "127.0.0.1", "0.0.0.0"):  # noqa: S104  # refused, not bound
            raise ConfigError(
                f"aggregator is {self.aggregator!r}, which a board takes for itself or nobody; "
                "give this machine's address in the boards' network"
            )
        if not self.boards:
            raise ConfigError("boards is empty; expected one [[boards]] table per board")
        for what, names in (
            ("client", [board.client for board in self.boards]),
            ("host", [f"{board.host}:{board.port}" for board in self.boards]),
        ):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise ConfigError(
                    f"{what} {twice[0]!r} is named twice; a board runs one client, "
                    "since its meter cannot tell two apart"
                )


def load_boards(path: Path) -> Boards:
    """Read a boards file; its paths become absolute.

    Raises:
        ConfigError: one line that names file, key and the nearest valid name.
    """
    boards = parse(Boards, read_toml(path, where=path.name), where=path.name)
    folder = path.resolve().parent
    placed = tuple(
        replace(
            board,
            key=_placed(board.key, folder),
            known_hosts=_placed(board.known_hosts, folder),
        )
        for board in boards.boards
    )
    wheel = boards.leakwatt.endswith(".whl")
    return replace(
        boards,
        boards=placed,
        leakwatt=_placed(boards.leakwatt, folder) if wheel else boards.leakwatt,
    )


def check_boards(
    boards: Boards, experiment: Experiment, private: PrivateFolder, *, where: str
) -> None:
    """Whether every board's client is one of the run, prepared, and on the backend that it gets.

    Raises:
        ConfigError: one line that names file, board and key.
    """
    for board in boards.boards:
        at = f"{where}: board {board.host!r}"
        if board.client not in experiment.client_ids:
            raise ConfigError(
                f"{at}: {experiment.id} has no client {board.client!r}"
                f"{nearest(board.client, list(experiment.client_ids))}"
            )
        backend = experiment.device_of(board.client).backend
        if BACKEND_OF[board.extra] != backend:
            raise ConfigError(
                f"{at}: extra {board.extra!r} has backend {BACKEND_OF[board.extra]!r}, but the "
                f"experiment's [[devices]] put {board.client} on {backend!r}"
            )
        if board.key and not Path(board.key).is_file():
            raise ConfigError(f"{at}: key: there is no file {board.key}")
        if board.meter is not None:
            try:
                build(METERS, board.meter)
            except ConfigError as error:
                raise ConfigError(f"{at}: meter: {error}") from error
        files_for(board, private)


def files_for(board: Board, private: PrivateFolder) -> list[Path]:
    """What the board's client is started from; nothing of anybody else's.

    Raises:
        ConfigError: the run was not prepared here.
    """
    folder = private.service(board.client)
    needed = (*_NEEDED, f"{board.client}.crt", f"{board.client}.key")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise ConfigError(
            f"{folder}: {', '.join(missing)} missing; run `leakwatt prepare` for the experiment, "
            "and name its folder with --private"
        )
    peers = folder / "peers"
    return [*(folder / name for name in needed), *([peers] if peers.is_file() else [])]


def _placed(path: str, folder: Path) -> str:
    return str(folder / Path(path).expanduser()) if path else ""
