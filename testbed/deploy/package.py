"""What is installed on the boards: this checkout as a wheel, a wheel file, or a version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fedcore.errors import ConfigError, RunError
from testbed.provenance import own_version

__all__ = ["package_for"]

_ROOT = Path(__file__).parents[2]
_VERSION = re.compile(r"\d[0-9A-Za-z.+]*")


def package_for(leakwatt: str, *, scratch: Path) -> Path | str:
    """The wheel's file, or a version that the package index has.

    Args:
        leakwatt: the boards file's key; "" for the Leakwatt that runs this.
        scratch: folder for a wheel that has to be built.

    Raises:
        ConfigError: it names neither a wheel that is there nor a version.
        RunError: the checkout cannot be built.
    """
    if leakwatt.endswith(".whl"):
        if not Path(leakwatt).is_file():
            raise ConfigError(f"leakwatt: there is no file {leakwatt}")
        return Path(leakwatt)
    if leakwatt and not _VERSION.fullmatch(leakwatt):
        raise ConfigError(f"leakwatt must be a wheel (.whl) or a version; got {leakwatt!r}")
    if leakwatt or not (_ROOT / "pyproject.toml").is_file():
        return leakwatt or own_version()
    return _built(scratch)


def _built(scratch: Path) -> Path:
    """The same sources give the same bytes, so that an unchanged checkout changes no board."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    done = subprocess.run(  # noqa: S603  # our own sources
        [*command, str(scratch), str(_ROOT)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RunError(f"{_ROOT}: the wheel cannot be built: {why}")
    return next(scratch.glob("leakwatt-*.whl"))
