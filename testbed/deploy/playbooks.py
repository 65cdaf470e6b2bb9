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

__all__ = ["folder", "play"]

_HERE = Path(__file__).parent.parent
_FAULT = re.compile(r"^(fatal|failed|\[ERROR\]|ERROR)\b.*", re.MULTILINE)


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
    done = subprocess.run(  # noqa: S603  # our own playbooks, by the interpreter that runs us
        command,
        env={**os.environ, "ANSIBLE_CONFIG": str(folder() / "ansible.cfg")},
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        check=False,
    )
    if done.returncode:
        said = (done.stdout or b"").decode(errors="replace")
        faults = " | ".join(match.group() for match in _FAULT.finditer(said))
        raise RunError(f"deploy: {faults or 'a board failed, see above'}")
