"""How far an attack is: a line of JSON now and then, for displays, and a beat for health checks."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fedcore.errors import StorageError
from fedcore.health import Pulse
from fedcore.host import host_id
from fedcore.strict import to_table

__all__ = ["ProgressFile"]

_EVERY_S = 0.5


class ProgressFile:
    """Told by an attack how far it is, writes `{run_id, iteration, total, loss, losses, eta_s}`.

    `losses` are the lowest own losses of the victims and `loss` is their mean; null stands where
    there is none yet. `wall_ns` and `host` tell whose energy readings the attack disturbs.

    Args:
        path: begun anew.
        run_id: in every line.
        pulse: beats at every call.
        now_s: a clock.

    Raises:
        StorageError: the disk did not take it, at the beginning or at a later call.
    """

    def __init__(
        self,
        path: Path,
        *,
        run_id: str,
        pulse: Pulse,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._run_id = run_id
        self._pulse = pulse
        self._now_s = now_s
        self._host = to_table(host_id())
        self._started_s = self._written_s = now_s()
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")

    def __call__(self, done: int, total: int, losses: np.ndarray) -> None:
        """Iterations done, of all; a line is written twice a second, and for the last one."""
        self._pulse.beat()
        now_s = self._now_s()
        if done < total and now_s - self._written_s < _EVERY_S:
            return
        self._written_s = now_s
        finite = losses[np.isfinite(losses)]
        line = {
            "run_id": self._run_id,
            "iteration": done,
            "total": total,
            "loss": float(finite.mean()) if finite.size else None,
            "losses": [float(loss) if np.isfinite(loss) else None for loss in losses],
            "wall_ns": time.time_ns(),
            "host": self._host,
            "eta_s": round((now_s - self._started_s) * (total - done) / max(done, 1), 1),
        }
        with self._writing(), self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            again = "start the same attack again"
            raise StorageError.of(self._path, error, then=again) from error
