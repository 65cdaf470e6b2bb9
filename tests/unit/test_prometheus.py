"""What Prometheus is told: scraped over real HTTP, counted once, measured and modelled apart."""

import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.metrics import families_of
from aggregator.store import Store
from fedcore.energy import (
    Boundary,
    EnergyReading,
    ModelledEnergy,
    Phase,
    PhaseRecord,
    PhaseReport,
)
from fedcore.errors import ConfigError
from fedcore.prometheus import PhaseTotals, serve_metrics
from fedcore.types import Missing, Ticket

pytest.importorskip("prometheus_client")

READING = EnergyReading(
    energy_j=2.0,
    uncertainty_j=0.1,
    duration_s=1.0,
    rail="VDD_IN",
    boundary=Boundary.MODULE_INPUT,
    method="integrated",
    coverage=1.0,
    n_samples=10,
    longest_gap_s=0.1,
    meter="jetson 1",
    flags=("shared(3)",),
)
GUESS = ModelledEnergy(energy_j=5.0, low_j=1.0, high_j=9.0, model="table", inputs="")


def report(number: int, *, measured: object = (READING,), attempt: int = 0) -> PhaseReport:
    return PhaseReport(
        ticket=Ticket(run_id="run", round=number, client_id="client-0"),
        attempt=attempt,
        phases=(
            PhaseRecord(
                phase=Phase.TRAIN,
                start_mono_ns=0,
                duration_s=1.0,
                cpu_s=0.5,
                measured=measured,
                modelled=GUESS,
            ),
        ),
        evaluation=None,
        clock_offset_s=0.0,
        clock_uncertainty_s=0.0,
        machine_card="",
    )


def scraped(totals: PhaseTotals) -> list[str]:
    with (
        serve_metrics("127.0.0.1:0", totals.families) as address,
        urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer,
    ):
        return answer.read().decode().splitlines()


def test_measured_and_modelled_joules_are_two_metrics() -> None:
    totals = PhaseTotals()
    totals.add(report(0))
    totals.add(report(1))
    totals.add(report(2, measured=Missing(why="no sensor")))
    lines = scraped(totals)
    assert (
        'leakwatt_measured_joules_total{boundary="module-input",client="client-0",'
        'meter="jetson 1",phase="train",rail="VDD_IN",shared="3"} 4.0' in lines
    )
    assert (
        'leakwatt_modelled_joules_total{client="client-0",model="table",phase="train"} 15.0'
        in lines
    )
    assert 'leakwatt_phase_seconds_total{client="client-0",phase="train"} 3.0' in lines
    assert 'leakwatt_phases_without_reading_total{client="client-0",phase="train"} 1.0' in lines


def test_a_later_attempt_takes_the_place_of_the_earlier_ones() -> None:
    totals = PhaseTotals()
    for attempt in range(3):
        totals.add(report(0, attempt=attempt))
    totals.add(report(1))
    assert 'leakwatt_phase_seconds_total{client="client-0",phase="train"} 2.0' in scraped(totals)


def test_an_address_that_cannot_be_listened_on_is_one_line() -> None:
    totals = PhaseTotals()
    with (
        serve_metrics("127.0.0.1:0", totals.families) as taken,
        pytest.raises(ConfigError, match=f"cannot listen on '{taken}'"),
        serve_metrics(taken, totals.families),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="HOST:PORT"),
        serve_metrics("nonsense", totals.families),
    ):
        pass


def test_the_aggregator_tells_what_its_store_holds(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    store.save_report(report(0))
    store.save_report(replace(report(0), attempt=1))
    store.refuse(peer="client-1", claimed="upload", reason="not-finite", message="")
    families = families_of(tmp_path / "store.sqlite", ("run",))
    found = {name: values for name, _, _, values in families}
    store.close()
    assert found["refusals"] == {("not-finite",): 1}
    assert found["rounds_closed"] == {("run",): 0}
    assert found["phase_seconds"] == {("client-0", "train"): 1.0}
