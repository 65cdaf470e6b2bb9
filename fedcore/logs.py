"""Logs are events with fields: `log.info("joined", extra={"client": "client-0"})`.

2026-01-31T12:00:00.123Z INFO edge_client.rpc joined client=client-0
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from fedcore.errors import ConfigError

__all__ = ["EventFormatter", "start_logging"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class EventFormatter(logging.Formatter):
    """One line per event: UTC time, level, source, event, then the fields as key=value."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Append what `extra` brought; a value with spaces or control characters is quoted."""
        fields = [
            f"{key}={_shown(value)}" for key, value in vars(record).items() if key not in _STANDARD
        ]
        return " ".join([super().formatMessage(record), *fields])


def start_logging(*, file: Path | None, verbose: bool) -> None:
    """Send the process's events to a file, or to standard error.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        handler = logging.FileHandler(file) if file else logging.StreamHandler()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from error
    handler.setFormatter(EventFormatter())
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True
    )
    logging.getLogger("torch").setLevel(logging.WARNING)  # its INFO is about its own caches


def _shown(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and " " not in text and text != ""
    return text if plain else json.dumps(text)
