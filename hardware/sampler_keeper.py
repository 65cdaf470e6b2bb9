"""Keeps a sampler alive: one that has ended is started again, beside the trainer's work."""

from __future__ import annotations

import functools
import threading
import time

from fedcore.errors import MeterError
from fedcore.plan import Choice
from hardware.meters.base import Sample
from hardware.sampler_link import SamplerLink

__all__ = ["SamplerKeeper"]


class SamplerKeeper:
    """A sampler that comes back. What a dead one had not handed over is lost, and shows as a gap.

    Args:
        meter: what it shall read.
        period_s: mean time between samples.
        restart_after_s: how long to wait before it is started again, each time.

    Attributes:
        info: what the meter measures; a sampler that measures something else is not taken.
        restarted_ns: when it last came back, on CLOCK_MONOTONIC; None where it never had to.

    Raises:
        MeterError: it did not start, or its meter does not read.
    """

    def __init__(self, meter: Choice, *, period_s: float, restart_after_s: float = 2.0) -> None:
        self._start = functools.partial(SamplerLink, meter, period_s=period_s)
        self._restart_after_s = restart_after_s
        self._link = self._start()
        self.info = self._link.info
        self.restarted_ns: int | None = None
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        threading.Thread(target=self._keep, name="sampler-keeper", daemon=True).start()

    def mark(self) -> list[Sample]:
        """As `SamplerLink.mark`.

        Raises:
            MeterError: the sampler is silent, or has ended and is not back yet.
        """
        with self._lock:
            return self._link.mark()

    def close(self) -> None:
        """End the sampler for good; a second call does nothing."""
        self._is_closed.set()
        with self._lock:
            self._link.close()

    def _keep(self) -> None:
        while True:
            self._link.wait()
            if self._is_closed.wait(self._restart_after_s):
                return
            try:
                link = self._start()
            except MeterError:
                continue  # the old one's end is still the reason
            self._take(link)

    def _take(self, link: SamplerLink) -> None:
        """Use a new sampler, unless it has come too late or measures something else."""
        with self._lock:
            if self._is_closed.is_set() or link.info != self.info:
                link.close()
                return
            self._link.close()
            self._link = link
            self.restarted_ns = time.monotonic_ns()
