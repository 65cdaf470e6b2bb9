"""Plugins are names that resolve late: listing imports nothing, so a board can list attacks."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Generic, TypeVar, cast

from fedcore.errors import PluginError

__all__ = ["Registry", "nearest"]

T = TypeVar("T")


def nearest(name: str, known: list[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Registry(Generic[T]):
    """Maps plugin names to "module:attribute" and imports the module on first use.

    Third parties add plugins through the entry-point group `leakwatt.<kind>` of their own
    distribution, e.g. `[project.entry-points."leakwatt.codec"] mine = "my_package.codec:Mine"`.

    Args:
        kind: the plugin kind in the singular, as it is shown to people ("codec").
        builtin: the names that Leakwatt ships.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self._where = dict(builtin)
        self._entry_points_read = False

    def add(self, name: str, where: str) -> None:
        """Register one more plugin under a name that is not taken yet."""
        if name in self._where:
            raise ValueError(f"{self.kind} {name!r} already exists: {self._where[name]}")
        self._where[name] = where

    def names(self) -> list[str]:
        """All names, sorted. Imports no plugin."""
        self._read_entry_points()
        return sorted(self._where)

    def where(self, name: str) -> str:
        """The "module:attribute" behind a name.

        Raises:
            PluginError: the name is unknown; the message names the nearest known one.
        """
        self._read_entry_points()
        if name not in self._where:
            known = self.names()
            raise PluginError(
                f"no {self.kind} {name!r} (known: {', '.join(known)}){nearest(name, known)}"
            )
        return self._where[name]

    def get(self, name: str) -> T:
        """Import and return the plugin.

        Raises:
            PluginError: the name is unknown, or its module needs a package that is not installed.
        """
        module, _, attribute = self.where(name).partition(":")
        try:
            return cast(T, getattr(importlib.import_module(module), attribute))
        except ModuleNotFoundError as error:
            raise PluginError(
                f"{self.kind} {name!r} needs the package {error.name!r}, which is not installed"
            ) from error
        except AttributeError as error:
            raise PluginError(
                f"{self.kind} {name!r}: {module} has no {attribute!r}; "
                "mend the entry point of the package that registers it"
            ) from error

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        self._entry_points_read = True
        for point in importlib.metadata.entry_points(
            group=f"leakwatt.{self.kind.replace(' ', '-')}"
        ):
            if point.name not in self._where:  # a stranger's plugin never replaces ours
                self._where[point.name] = point.value
