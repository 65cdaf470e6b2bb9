"""From the boards file to what Ansible reads, and from a board's own words to what it gets."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fedcore.config import Experiment
from fedcore.errors import ConfigError
from fedcore.layout import PrivateFolder
from fedcore.plan import Choice
from fedcore.strict import to_table
from testbed.deploy.boards import Board, Boards, files_for
from testbed.deploy.matrix import Probe, Wish, pins
from testbed.deploy.permissions import needs_of

__all__ = ["inventory", "plan", "unit_line"]

STATE = "/var/lib/leakwatt"
PULSE = "/run/leakwatt/pulse"
_CLIENT = "/opt/leakwatt/venv/bin/leakwatt-client"
_OF_ACCELERATORS = ("video", "render")  # as a Jetson's devices are
_SETTINGS = "/opt/leakwatt/client/client.toml"


def inventory(
    boards: Boards, experiment: Experiment, private: PrivateFolder, *, package: Path | str
) -> dict[str, Any]:
    """The inventory: one host per client, with all that its tasks use.

    Args:
        boards: checked.
        experiment: that the clients take part in.
        private: its private folder.
        package: the wheel to install, or its version in the package index.
    """
    hosts = {
        board.client: _connection(board) | _wanted(board, boards, experiment, private, package)
        for board in boards.boards
    }
    return {"all": {"hosts": hosts}}


def plan(said: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What one board gets; called by the playbook with what `probe.sh` printed there.

    Args:
        said: the board's answer.
        wanted: its variables of the inventory.

    Returns:
        `refused`: why the board gets nothing, or "". Else `constraints` for pip, `groups` of the
        service that the board has, whether `needs_venv` of the distribution, and the `stamp` of
        an installation that needs no change.
    """
    wish = Wish(**{f.name: wanted[f"leakwatt_{f.name}"] for f in fields(Wish)})
    try:
        probe = Probe.read(str(said))
        constraints = pins(probe, wish)
    except ConfigError as error:
        return {"refused": str(error)}
    environment = f"Python {probe.python} for {wish.extra}"  # a new line here is a new environment
    package = [wanted["leakwatt_requirement"], wanted["leakwatt_digest"]]
    return {
        "refused": "",
        "constraints": "".join(f"{pin}\n" for pin in constraints),
        "groups": [group for group in wanted["leakwatt_groups"] if group in probe.groups],
        "needs_venv": probe.venv != "yes",
        "stamp": "\n".join([environment, *package, wish.torch, wish.index, *constraints]),
    }


def unit_line(arguments: Iterable[str]) -> str:
    """A command as systemd reads it: quoted by its rules, which are not the shell's."""
    return " ".join(
        '"' + a.translate({92: r"\\", 34: r"\"", 36: "$$", 37: "%%"}) + '"' for a in arguments
    )


def _connection(board: Board) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ansible_host": board.host,
        "ansible_port": board.port,
        "ansible_user": board.user,
        "ansible_python_interpreter": board.python or "auto_silent",
    }
    if board.key:
        found["ansible_ssh_private_key_file"] = board.key
    if board.known_hosts:
        option = shlex.quote(f"UserKnownHostsFile={board.known_hosts}")
        found["ansible_ssh_common_args"] = f"-o {option} -o StrictHostKeyChecking=yes"
    return found


def _wanted(
    board: Board,
    boards: Boards,
    experiment: Experiment,
    private: PrivateFolder,
    package: Path | str,
) -> dict[str, Any]:
    needs = needs_of(board.meter or experiment.hardware.meter)
    groups = dict.fromkeys(needs.groups)
    if experiment.device_of(board.client).accelerator:
        groups.update(dict.fromkeys(_OF_ACCELERATORS))
    own = (
        () if board.torch else (board.extra,)
    )  # a torch of one's own may be older than the extra's
    extras = ",".join((*own, *needs.extras))
    is_wheel = isinstance(package, Path)
    return {
        "leakwatt_client": board.client,
        "leakwatt_files": [str(file.resolve()) for file in files_for(board, private)],
        "leakwatt_command": unit_line(_command(board, boards)),
        "leakwatt_extra": board.extra,
        "leakwatt_requirement": f"leakwatt[{extras}]" + ("" if is_wheel else f"=={package}"),
        "leakwatt_wheel": str(package.resolve()) if isinstance(package, Path) else "",
        "leakwatt_digest": _sha256(package) if isinstance(package, Path) else "",
        "leakwatt_python": board.python,
        "leakwatt_torch": board.torch,
        "leakwatt_index": boards.index,
        "leakwatt_groups": list(groups),
        "leakwatt_udev": list(needs.udev),
        "leakwatt_capabilities": list(needs.capabilities),
    }


def _command(board: Board, boards: Boards) -> list[str]:
    return [
        _CLIENT,
        *("--config", _SETTINGS),
        *("--aggregator", boards.aggregator),
        *("--vault", f"{STATE}/vault"),
        *("--cache", f"{STATE}/cache"),
        *("--pulse", PULSE),
        *(_meter_arguments(board.meter) if board.meter else ()),
    ]


def _meter_arguments(meter: Choice) -> list[str]:
    options = (f"{key}={json.dumps(to_table(value))}" for key, value in meter.options.items())
    return ["--meter", meter.name, *(word for o in options for word in ("--meter-option", o))]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
