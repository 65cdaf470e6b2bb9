"""Graphics cards behind a made-up NVML, with the real package's names and errors."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hardware.integrate import integrate_counter
from hardware.meters.base import NoSensorError
from hardware.meters.nvml import Nvml


class NVMLError(Exception):
    """As the package's: no OSError."""


Card = dict[str, Any]
Install = Callable[..., ModuleType]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    return tmp_path


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a library with these cards in place; a card answers what it holds."""

    def put(*cards: Card, starts: bool = True) -> ModuleType:
        nvml: Any = ModuleType("pynvml")
        nvml.NVMLError, nvml.n_open = NVMLError, 0

        def start() -> None:
            if not starts:
                raise NVMLError("Driver Not Loaded")
            nvml.n_open += 1

        def stop() -> None:
            nvml.n_open -= 1

        def query(key: str) -> Callable[[Card], Any]:
            def ask(card: Card) -> Any:
                if key not in card:
                    raise NVMLError("Not Supported")
                return card[key]

            return ask

        nvml.nvmlInit, nvml.nvmlShutdown = start, stop
        nvml.nvmlDeviceGetCount = lambda: len(cards)
        nvml.nvmlDeviceGetHandleByIndex = lambda i: cards[i]
        nvml.nvmlDeviceGetTotalEnergyConsumption = query("mj")
        nvml.nvmlDeviceGetPowerUsage = query("mw")
        nvml.nvmlDeviceGetName = query("name")
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return put


def test_a_counter_is_preferred_and_every_card_is_a_rail(root: Path, install: Install) -> None:
    nvml = install({"mj": 123_456, "mw": 70_000}, {"mw": 31_500, "name": "Tesla P4"})
    with Nvml(root=str(root)).open() as meter:
        assert [(r.name, r.kind, r.boundary.value) for r in meter.info.rails] == [
            ("gpu-0", "counter", "gpu-board"),
            ("gpu-1", "power", "gpu-board"),
        ]
        assert meter.read().values == pytest.approx((123.456, 31.5))
        assert [rail.update_s for rail in meter.info.rails] == [0.1, 1.0]
        assert any("gpu-1: no energy counter" in note for note in meter.info.notes)
        assert nvml.n_open == 1
    assert nvml.n_open == 0


def test_a_jetson_starts_the_library_and_supports_nothing(root: Path, install: Install) -> None:
    nvml = install({"name": "Orin (nvgpu)"})
    with pytest.raises(NoSensorError, match="Not Supported") as caught:
        Nvml(root=str(root)).open()
    assert "jetson" in caught.value.fix
    assert nvml.n_open == 0


def test_a_jetson_without_the_library_is_told_the_same(tmp_path: Path) -> None:
    with pytest.raises(NoSensorError, match="no NVIDIA driver") as caught:
        Nvml(root=str(tmp_path)).open()
    assert "driver" in caught.value.fix
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").touch()
    with pytest.raises(NoSensorError, match="no NVIDIA driver") as caught:
        Nvml(root=str(tmp_path)).open()
    assert "jetson" in caught.value.fix


def test_a_card_that_is_lost_is_missing_and_the_other_goes_on(root: Path, install: Install) -> None:
    first = {"mj": 1_000}
    install(first, {"mj": 2_000})
    with Nvml(root=str(root)).open() as meter:
        del first["mj"]
        sample = meter.read()
        assert math.isnan(sample.values[0])
        assert sample.values[1] == 2.0
        assert sample.fault == "gpu-0: NVML: Not Supported"


def test_a_card_that_cannot_be_measured_is_named(root: Path, install: Install) -> None:
    install({"name": "old"}, {"mj": 5, "name": "NVIDIA H100 80GB HBM3"})
    with Nvml(root=str(root)).open() as meter:
        assert [rail.name for rail in meter.info.rails] == ["gpu-1"]
        assert meter.info.notes[0].startswith("gpu-0 is left out")
        assert "25 % of the time" in meter.info.notes[1]


def test_a_reloaded_driver_is_no_energy(root: Path, install: Install) -> None:
    card = {"mj": 500_000}
    install(card)
    times_s, values = [0.0, 1.0, 2.0, 3.0], []
    with Nvml(root=str(root)).open() as meter:
        for mj in (500_000, 600_000, 20_000, 120_000):
            card["mj"] = mj
            values += meter.read().values
        rail = meter.info.rails[0]
    energy = integrate_counter(
        np.array(times_s),
        np.array(values),
        start_s=0.0,
        end_s=3.0,
        max_gap_s=2.0,
        max_power_w=rail.max_power_w,
        wraps_at_j=rail.wraps_at_j,
    )
    assert energy.energy_j == pytest.approx(200.0)
    assert energy.coverage == pytest.approx(2 / 3)
    assert "counter-reset" in energy.flags


def test_without_the_library_or_the_package_a_person_is_told_what_to_do(
    root: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install({"mj": 1}, starts=False)
    with pytest.raises(NoSensorError, match=r"Driver Not Loaded.*nvidia-smi"):
        Nvml(root=str(root)).open()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoSensorError, match=r"pip install 'leakwatt\[nvml\]'"):
        Nvml(root=str(root)).open()
