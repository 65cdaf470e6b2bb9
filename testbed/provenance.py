"""Which versions made a page: Leakwatt's own, and those of what its numbers rest on."""

from __future__ import annotations

import importlib.metadata
import platform

__all__ = ["own_version", "versions"]

_PACKAGES = ("leakwatt", "numpy", "scipy", "scikit-image", "matplotlib", "jinja2")


def own_version() -> str:
    """The installed Leakwatt's version."""
    return _version("leakwatt")


def versions() -> dict[str, str]:
    """Versions of Python and of what judge and report compute with."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed (source tree)"
