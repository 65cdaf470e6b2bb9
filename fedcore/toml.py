"""TOML files on every supported Python: the standard library's reader, or tomli on 3.10."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fedcore.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

__all__ = ["read_toml"]


def read_toml(path: Path, *, where: str) -> dict[str, Any]:
    """Read a file's table.

    Args:
        path: of the file.
        where: its name in the message when it is not TOML.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, too long or deep a value
        raise ConfigError(f"{where}: not TOML: {error}") from error
    return table
