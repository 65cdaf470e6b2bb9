"""What the command lines of all services share."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
from types import FrameType
from typing import Any

__all__ = ["exit_on_signals", "key_value", "positive_s"]


def key_value(text: str) -> tuple[str, Any]:
    """An argparse type: a plugin's option KEY=VALUE; the value is JSON, or else the text itself.

    Raises:
        ArgumentTypeError: there is no key, or no "=".
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def positive_s(text: str) -> float:
    """An argparse type: a time in s.

    Raises:
        ArgumentTypeError: it is no number above 0, or infinite.
    """
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds > 0")


def exit_on_signals() -> None:
    """Let SIGTERM and SIGINT unwind the process; it exits with 128 + the signal's number."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
