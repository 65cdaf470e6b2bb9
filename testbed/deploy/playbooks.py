"""Running the playbooks that Leakwatt ships, as Ansible's own command in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcore.errors import ConfigError, RunError

__all__ = ["faults", "folder", "play"]

_HERE = Path(__file__).parent.parent
_FATAL = re.compile(r"^(?:fatal|failed): \[(.+?)\].*?=> (.+)$", re.MULTILINE)
_ERROR = re.compile(r"^(?:\[ERROR\]|ERROR).*$", re.MULTILINE)


def folder() -> Path:
    """Where the playbooks lie: among the packages of the wheel, or in the checkout."""
    places = (_HERE / "ansible", _HERE.parent / "deploy" / "ansible")
    return next(place for place in places if place.is_dir())


def play(
    name: str,
    inventory: Mapping[str, Any],
    *,
    scratch: Path,
    variables: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    quiet: bool = False,
) -> None:
    """Run one playbook on every host of the inventory.

    Args:
        name: of the playbook.
        inventory: as Ansible reads it from JSON.
        scratch: folder for the inventory.
        variables: beside those of the hosts.
        options: of ansible-playbook.
        quiet: show nothing but what went wrong.

    Raises:
        ConfigError: Ansible is not installed.
        RunError: a board could not be reached, or a task failed there; the others went on.
    """
    if importlib.util.find_spec("ansible") is None:
        raise ConfigError("Ansible is not installed; run `pip install 'leakwatt[deploy]'`")
    hosts = scratch / "inventory.json"
    hosts.write_text(json.dumps(inventory))
    command = [
        *(sys.executable, "-m", "ansible", "playbook", str(folder() / f"{name}.yml")),
        *("--inventory", str(hosts)),
        *("--extra-vars", json.dumps(variables or {})),
        *options,
    ]
    said = []
    with subprocess.Popen(  # noqa: S603  # our own playbooks, by the interpreter that runs us
        command,
        env={**os.environ, "ANSIBLE_CONFIG": str(folder() / "ansible.cfg")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            if not quiet:
                sys.stdout.write(line)
                sys.stdout.flush()
    if process.returncode:
        raise RunError(f"deploy: {' | '.join(faults(''.join(said))) or 'Ansible failed'}")


def faults(said: str) -> list[str]:
    """What Ansible said of boards that failed, one line for each; else its own errors.

    Args:
        said: output of ansible-playbook.
    """
    of_boards = {board: _reason(told) for board, told in _FATAL.findall(said)}
    return [f"{board}: {why}" for board, why in of_boards.items()] or _ERROR.findall(said)


def _reason(told: str) -> str:
    try:
        result = json.loads(told)
    except ValueError:
        return told
    words = str(result.get("stderr", "")).strip() or str(result.get("msg", "")).strip() or told
    return words.splitlines()[-1].removeprefix("Task failed: ")
