"""Modules of this folder as processes of their own, and what such a process finds out."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = [
    "ROOT",
    "address_of",
    "finish",
    "median_duration_s",
    "peak_bytes",
    "reset_peak",
    "start",
    "stop",
]

ROOT = Path(__file__).resolve().parent.parent


def start(
    module: str, *words: str, python: Path | str = sys.executable, **options: object
) -> subprocess.Popen[str]:
    """Run a module with `words` and, where they are not None, `--options`; its output is piped."""
    given = [f"--{key.replace('_', '-')}={v}" for key, v in options.items() if v is not None]
    return subprocess.Popen(
        [str(python), "-m", module, *words, *given], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def finish(process: subprocess.Popen[str]) -> Any:
    """Wait for a process, and read the JSON of its last line.

    Raises:
        SystemExit: it failed.
    """
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{process.args!r} failed with code {process.returncode}")
    return json.loads(output.splitlines()[-1])


def address_of(server: subprocess.Popen[str]) -> str:
    """Where a server listens, once it has printed its port."""
    line = server.stdout.readline() if server.stdout else ""
    if not line.strip().isdigit():
        raise SystemExit(f"{server.args!r} did not print its port")
    return f"127.0.0.1:{line.strip()}"


def stop(process: subprocess.Popen[str]) -> None:
    """End a process that would serve for ever."""
    process.kill()
    process.communicate()


def median_duration_s(work: Callable[[], object], *, repeats: int = 3) -> float:
    """How long some work takes, in s."""
    durations_s = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        work()
        durations_s.append(time.perf_counter() - started_s)
    return statistics.median(durations_s)


def reset_peak() -> int:
    """Forget this process's peak memory (proc(5), clear_refs); return what it uses, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process used since `reset_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
