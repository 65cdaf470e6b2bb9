"""Several meters as one: every rail once, under a name of its own, and no joule twice."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from fedcore.energy import Boundary
from fedcore.errors import ConfigError
from fedcore.plan import Choice
from fedcore.strict import build
from hardware.meters.base import Clock, MeterInfo, NoSensorError, OpenMeter, OpenRails, Rail, Sensor
from hardware.registry import METERS


@dataclass(frozen=True, kw_only=True)
class Fake(Sensor):
    """One rail named "total", at 100 ns per look at the clock."""

    name: ClassVar[str]
    boundary: ClassVar[Boundary]
    watts: ClassVar[float]
    period_s: ClassVar[float] = 0.0
    closed: ClassVar[list[str]] = []

    def open(self, *, now_ns: Clock) -> OpenMeter:
        if self.watts < 0:
            raise NoSensorError("out of order", fix="mend it")

        def read() -> float:
            if math.isnan(self.watts):
                raise OSError("it broke")
            return self.watts

        stack = contextlib.ExitStack()
        stack.callback(self.closed.append, self.name)
        rail = Rail(
            name="total",
            boundary=self.boundary,
            kind="power",
            resolution=0.1,
            gain_error=0.0,
            max_power_w=100.0,
        )
        info = MeterInfo(
            name=self.name,
            version="3",
            rails=(rail,),
            period_s=self.period_s,
            notes=("a note",),
            flags=("fake",),
        )
        return OpenRails(info, [read], opened=stack, now_ns=now_ns)


Register = Callable[..., type[Fake]]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Register fakes that stand alone beside `auto`, `combined` and `null`."""
    Fake.closed.clear()
    kept = {name: METERS._where[name] for name in ("auto", "combined", "null", "rapl", "perf")}
    monkeypatch.setattr(METERS, "_where", kept)

    def make(
        name: str, boundary: Boundary, watts: float = 1.0, period_s: float = 0.0
    ) -> type[Fake]:
        fake = dataclass(frozen=True, kw_only=True)(
            type(
                f"Fake_{name}",
                (Fake,),
                {"name": name, "boundary": boundary, "watts": watts, "period_s": period_s},
            )
        )
        monkeypatch.setitem(globals(), fake.__name__, fake)
        METERS._where[name] = f"{__name__}:{fake.__name__}"
        return fake

    return make


def opened(*names: str, now_ns: Clock = lambda: 0) -> OpenMeter:
    meters = [{"name": name} for name in names]
    return build(METERS, Choice(name="combined", options={"meters": meters})).open(now_ns=now_ns)


def auto(root: Path) -> OpenMeter:
    return build(METERS, Choice(name="auto", options={"root": str(root)})).open()


def test_all_rails_under_names_of_their_own_at_the_middle_of_the_reading(
    register: Register,
) -> None:
    register("a", Boundary.CPU_PACKAGE, 5.0, period_s=0.01)
    register("b", Boundary.WALL_AC, 30.0, period_s=1.0)
    clock = iter(range(100, 10_000, 100))
    with opened("a", "b", now_ns=lambda: next(clock)) as meter:
        assert [rail.name for rail in meter.info.rails] == ["a/total", "b/total"]
        assert meter.info.source == "combined a 3 + b 3"
        assert meter.info.period_s == 1.0
        assert meter.info.flags == ("fake",)
        assert meter.info.notes == ("a: a note", "b: a note")
        assert meter.read() == (250, (5.0, 30.0), "")
    assert sorted(Fake.closed) == ["a", "b"]


def test_a_part_that_breaks_leaves_the_others(register: Register) -> None:
    register("a", Boundary.CPU_PACKAGE, math.nan)
    register("b", Boundary.WALL_AC, 30.0)
    with opened("a", "b") as meter:
        sample = meter.read()
    assert math.isnan(sample.values[0])
    assert sample.values[1] == 30.0
    assert sample.fault == "total: it broke"


def test_a_part_that_does_not_open_closes_the_rest(register: Register) -> None:
    register("a", Boundary.CPU_PACKAGE)
    register("b", Boundary.WALL_AC, -1.0)
    with pytest.raises(NoSensorError, match="out of order"):
        opened("a", "b")
    with pytest.raises(NoSensorError, match="null: "):
        opened("a", "null")
    assert Fake.closed == ["a", "a"]


def test_two_of_one_boundary_are_refused(register: Register) -> None:
    register("a", Boundary.WALL_AC)
    register("b", Boundary.WALL_AC)
    with pytest.raises(ConfigError, match="a and b both measure wall-ac"):
        opened("a", "b")
    assert sorted(Fake.closed) == ["a", "b"]
    with pytest.raises(ConfigError, match="meters is empty"):
        opened()


def test_auto_measures_a_card_beside_a_processor_and_nothing_that_holds_either(
    register: Register, tmp_path: Path
) -> None:
    register("a", Boundary.CPU_PACKAGE)
    register("b", Boundary.BOARD_DC_INPUT)
    register("c", Boundary.CPU_PACKAGE)
    register("d", Boundary.GPU_BOARD)
    with auto(tmp_path) as meter:
        assert [rail.name for rail in meter.info.rails] == ["a/total", "d/total"]
        assert Fake.closed == ["b", "c"]
    register("a", Boundary.WALL_AC)  # holds all the others
    with auto(tmp_path) as meter:
        assert [rail.boundary for rail in meter.info.rails] == [Boundary.WALL_AC]
        assert meter.info.name == "a"
