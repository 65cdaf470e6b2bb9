"""The sampler: a process of its own that reads a meter beside a busy trainer.

A thread would wait for the trainer's interpreter lock (5 ms at the median); a process does not.
It is started with exec, never forked, because the trainer has started gRPC. It speaks lines:

    to it (standard input)      from it (standard output)
    mark N                      meter JSON         once, first: what is measured (MeterInfo)
                                absent WHY         instead of it, then the end
                                NS VALUE ...       a sample: time in ns, one value per rail or nan
                                fault WHY          before the sample that has a nan
                                mark N             after the samples since the last mark

`mark` takes a sample at once, so that a window begins and ends with one, and hands over all that
was kept. End of input ends the process, and so does another parent: it never outlives the trainer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

from fedcore.errors import FedcoreError
from fedcore.plan import Choice
from fedcore.strict import build, canonical_json, parse
from hardware.meters.base import OpenMeter, Sample
from hardware.registry import METERS

__all__ = ["main", "next_instant_ns"]

_LOOK_AFTER_S = 1.0  # how soon the end of the parent is seen, whatever the period
_MAX_KEPT = 200_000  # 5 h at 10 Hz; beyond it the oldest go, and the window shows a gap


def next_instant_ns(last_ns: int, *, now_ns: int, period_ns: int, rng: random.Random) -> int:
    """When to sample after `last_ns`: half a period to one and a half later, uniformly drawn.

    Of a load that repeats with the period, or a whole fraction of it, two samples in a row then see
    independent phases, so that nothing aliases; and the gaps differ less than those of one random
    instant per slot (mean cube 1.25 instead of 1.5), which is less error at every jump of a load.
    An instant that has passed while the machine was busy is now.
    """
    return max(last_ns + int((0.5 + rng.random()) * period_ns), now_ns)


def main(argv: Sequence[str] | None = None) -> int:
    """Sample until the standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m hardware.sampler", description=__doc__)
    parser.add_argument("--meter", required=True, help="JSON: name and options")
    parser.add_argument("--period-s", required=True, type=float)
    parser.add_argument("--parent", required=True, type=int, help="process to live with")
    args = parser.parse_args(argv)
    answers = os.dup(1)
    os.dup2(2, 1)  # what a vendor's library prints is no answer
    try:
        choice = parse(Choice, json.loads(args.meter), where="--meter")
        with build(METERS, choice).open() as meter:
            _write(answers, ["meter " + canonical_json(meter.info).decode()])
            period_ns = int(max(args.period_s, meter.info.period_s) * 1e9)
            _serve(meter, answers, period_ns=period_ns, parent=args.parent)
    except FedcoreError as error:
        _write(answers, [f"absent {_one_line(str(error))}"])
    except BrokenPipeError:
        return 0  # the trainer is gone
    return 0


def _serve(meter: OpenMeter, answers: int, *, period_ns: int, parent: int) -> None:
    kept: deque[Sample] = deque([meter.read()], maxlen=_MAX_KEPT)
    rng = random.Random()
    next_ns = time.monotonic_ns() + int(rng.random() * period_ns)
    commands = b""
    incoming = select.poll()  # a fifth cheaper per sample than select(), and whole ms are fine
    incoming.register(0, select.POLLIN)
    while os.getppid() == parent:
        wait_s = max(0, next_ns - time.monotonic_ns()) * 1e-9
        if not incoming.poll(min(wait_s, _LOOK_AFTER_S) * 1e3):
            if wait_s <= _LOOK_AFTER_S:
                kept.append(meter.read())
                next_ns = next_instant_ns(
                    next_ns, now_ns=time.monotonic_ns(), period_ns=period_ns, rng=rng
                )
            continue
        received = os.read(0, 4096)
        if not received:
            return
        *complete, commands = (commands + received).split(b"\n")
        for command in complete:
            kept.append(meter.read())
            _write(answers, [*_lines(kept), command.decode(errors="replace")])
            kept.clear()


def _lines(samples: Sequence[Sample]) -> Iterator[str]:
    for sample in samples:
        if sample.fault:
            yield f"fault {_one_line(sample.fault)}"
        yield " ".join([str(sample.mono_ns), *map(repr, sample.values)])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _write(fd: int, lines: Sequence[str]) -> None:
    data = memoryview("".join(f"{line}\n" for line in lines).encode())
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    sys.exit(main())
