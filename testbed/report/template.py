"""The pages' templates: everything that they show is escaped, a name they lack is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedcore.types import Missing
from testbed.report import words

__all__ = ["template"]


def template(name: str) -> Any:
    """A template of this folder, ready to render."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(words=words, is_missing=lambda value: isinstance(value, Missing))
    return environment.get_template(name)
