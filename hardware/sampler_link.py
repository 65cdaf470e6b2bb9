"""The trainer's end of the pipe to its sampler: nothing here waits for long or loses a reason."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, cast

from fedcore.errors import FedcoreError, MeterError
from fedcore.plan import Choice
from fedcore.strict import canonical_json, parse
from hardware.meters.base import MeterInfo, Sample

__all__ = ["SamplerLink"]

_PACKAGES = Path(__file__).resolve().parents[1]


class SamplerLink:
    """Starts a sampler and talks to it; `hardware.sampler` describes the lines.

    Args:
        meter: what it shall read.
        period_s: mean time between samples.
        start_timeout_s: how long it may take to import and open the meter.
        answer_timeout_s: how long a mark may take before the sampler counts as silent.

    Attributes:
        info: what the sampler's meter measures.

    Raises:
        MeterError: it did not start, or its meter does not read.
    """

    def __init__(
        self,
        meter: Choice,
        *,
        period_s: float,
        start_timeout_s: float = 30.0,
        answer_timeout_s: float = 1.0,
    ) -> None:
        self._answer_timeout_s = answer_timeout_s
        self._bytes = b""
        self._samples: list[Sample] = []
        self._fault = ""
        self._mark = 0
        self._is_answered = True
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        self._process = _start(meter, period_s=period_s, errors=self._errors)
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)
        self._incoming = select.poll()  # select() refuses a trainer's high descriptors
        self._incoming.register(self._stdout, select.POLLIN)
        try:
            self.info = self._read_info(start_timeout_s)
        except FedcoreError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The sampler's process id."""
        return self._process.pid

    def mark(self) -> list[Sample]:
        """Have a sample taken now, and return all since the last answered mark.

        Raises:
            MeterError: the sampler is silent (what it has comes with a later mark), or has ended.
        """
        if not self._is_answered:
            self._await_answer(timeout_s=0)  # one open mark at most: the pipe never fills
        self._mark += 1
        self._is_answered = False
        try:
            self._stdin.write(f"mark {self._mark}\n".encode())
        except OSError as error:
            raise self._end() from error
        self._await_answer(timeout_s=self._answer_timeout_s)
        samples, self._samples = self._samples, []
        return samples

    def wait(self) -> None:
        """Return when the sampler has ended."""
        self._process.wait()

    def close(self) -> None:
        """End the sampler; a second call does nothing."""
        self._stdin.close()
        try:
            self._process.wait(self._answer_timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()
        self._errors.close()

    def _read_info(self, timeout_s: float) -> MeterInfo:
        kind, _, rest = self._read_line(time.monotonic() + timeout_s).partition(" ")
        if kind != "meter":
            raise MeterError(rest)
        info = parse(MeterInfo, json.loads(rest), where="the sampler's meter")
        if info.absent:  # "auto" found a sensor when it was probed, and finds none now
            raise MeterError(info.absent)
        return info

    def _await_answer(self, *, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while (line := self._read_line(deadline_s)) != f"mark {self._mark}":
            first, _, rest = line.partition(" ")
            if first == "fault":
                self._fault = rest
            else:
                values = tuple(float(value) for value in rest.split())
                self._samples.append(Sample(int(first), values, self._fault))
                self._fault = ""
        self._is_answered = True

    def _read_line(self, deadline_s: float) -> str:
        while b"\n" not in self._bytes:
            wait_ms = max(0.0, deadline_s - time.monotonic()) * 1e3
            if not self._incoming.poll(wait_ms):
                raise MeterError("the sampler is silent (suspended, or the machine is overloaded)")
            received = os.read(self._stdout.fileno(), 1 << 16)
            if not received:
                raise self._end()
            self._bytes += received
        line, _, self._bytes = self._bytes.partition(b"\n")
        return line.decode()

    def _end(self) -> MeterError:
        """The reason for which the sampler has ended."""
        try:
            code = self._process.wait(self._answer_timeout_s)
        except subprocess.TimeoutExpired:
            return MeterError("the sampler closed its pipe")
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return MeterError(": ".join([f"the sampler {how}", *words]))


def _start(meter: Choice, *, period_s: float, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    path = [str(_PACKAGES), os.environ.get("PYTHONPATH")]
    try:
        return subprocess.Popen(  # noqa: S603  # our own module
            [
                *(sys.executable, "-m", "hardware.sampler"),
                *("--meter", canonical_json(meter).decode()),
                *("--period-s", repr(period_s)),
                *("--parent", str(os.getpid())),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches the trainer alone; its end ends the sampler
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(folder for folder in path if folder),
                "PYTHONSAFEPATH": "1",  # a folder "hardware" where we run is not ours (3.11+)
                "OPENBLAS_NUM_THREADS": "1",  # numpy is only imported here
            },
        )
    except OSError as error:
        errors.close()
        raise MeterError(f"the sampler could not be started: {error}") from error
