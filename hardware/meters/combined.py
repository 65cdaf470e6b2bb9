"""Several meters read as one, each for a boundary of its own."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fedcore.energy import Boundary
from fedcore.errors import ConfigError
from fedcore.plan import Choice
from fedcore.strict import build
from hardware.meters.base import Clock, Meter, MeterInfo, NoSensorError, OpenMeter, Rail, Sample
from hardware.registry import METERS

__all__ = ["Combined", "combine"]


@dataclass(frozen=True, kw_only=True)
class Combined(Meter):
    """Reads all of its meters for every sample, at the pace of the slowest.

    Two that measure within the same boundary are refused: they may see the same joules twice.

    Attributes:
        meters: name and options of each.
    """

    meters: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not self.meters:
            raise ConfigError("meters is empty; expected a list of {name, options}")

    def open(self, *, now_ns: Clock = time.monotonic_ns) -> OpenMeter:
        """Open all of them.

        Raises:
            NoSensorError: one cannot be opened.
            ConfigError: a name or an option is wrong, or two meters share a boundary.
        """
        with contextlib.ExitStack() as stack:
            opened = []
            for choice in self.meters:
                meter = stack.enter_context(build(METERS, choice).open(now_ns=now_ns))
                if meter.info.absent:
                    raise NoSensorError(
                        f"{choice.name}: {meter.info.absent}", fix="leave it out of meters"
                    )
                opened.append(meter)
            _require_apart([meter.info for meter in opened])
            combined = combine(opened)
            stack.pop_all()
        return combined


def combine(meters: Sequence[OpenMeter]) -> OpenMeter:
    """Open meters as one that owns them; rails of the same name are prefixed with their meter's."""
    return meters[0] if len(meters) == 1 else _OpenCombined(meters)


class _OpenCombined(OpenMeter):
    def __init__(self, meters: Sequence[OpenMeter]) -> None:
        infos = [meter.info for meter in meters]
        super().__init__(
            MeterInfo(
                name="combined",
                version=" + ".join(info.source for info in infos),
                rails=tuple(_rails(infos)),
                period_s=max(info.period_s for info in infos),
                notes=tuple(f"{info.name}: {note}" for info in infos for note in info.notes),
                flags=tuple(dict.fromkeys(flag for info in infos for flag in info.flags)),
            )
        )
        self._meters = meters

    def read(self) -> Sample:
        """Read them one after the other; the time is the middle of it all."""
        samples = [meter.read() for meter in self._meters]
        return Sample(
            (samples[0].mono_ns + samples[-1].mono_ns) // 2,
            tuple(itertools.chain.from_iterable(sample.values for sample in samples)),
            "; ".join(sample.fault for sample in samples if sample.fault),
        )

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for meter in self._meters:
                stack.callback(meter.close)


def _rails(infos: Sequence[MeterInfo]) -> Iterator[Rail]:
    uses = Counter(rail.name for info in infos for rail in info.rails)
    sources = [info.name for info in infos]
    for i, info in enumerate(infos):
        prefix = info.name if sources.count(info.name) == 1 else f"{info.name}-{i}"
        for rail in info.rails:
            yield rail if uses[rail.name] == 1 else replace(rail, name=f"{prefix}/{rail.name}")


def _require_apart(infos: Sequence[MeterInfo]) -> None:
    owners: dict[Boundary, str] = {}
    for info in infos:
        for boundary in {rail.boundary for rail in info.rails}:
            if boundary in owners:
                raise ConfigError(
                    f"{owners[boundary]} and {info.name} both measure {boundary.value}, perhaps "
                    "the same joules; keep one of them"
                )
            owners[boundary] = info.name
