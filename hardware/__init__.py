"""What a board's work costs: meters, sampling, windows, models of energy, the machine card.

`from hardware import Recorder, measured` is all that a program of one's own needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardware.window import Recorder, Window, measured

__all__ = ["Recorder", "Window", "measured"]


def __getattr__(name: str) -> object:
    """Import on first use, so that the sampler's process pays for its own modules alone."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hardware import window

    return getattr(window, name)
