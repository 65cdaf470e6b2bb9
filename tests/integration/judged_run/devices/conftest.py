"""A judged run of three devices, one of which measures joules and deploys forms."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rich")  # the summary's tables

from aggregator.store import Store
from fedcore.conditions import Conditions
from fedcore.devices import Agreement, Deployment
from fedcore.energy import Boundary, EnergyReading, Phase, PhaseRecord, PhaseReport, Surroundings
from fedcore.operations import LayerCount
from fedcore.strict import digest
from fedcore.types import Missing
from fedcore.wire.messages import Hello
from testbed.by_device import DeviceResults, by_device
from testbed.judge import judge
from testbed.report.devices import (
    device_tables,
)
from testbed.report.page import write_report
from testbed.results import Results, load_results

CHIP, LAPTOP, REST = "client-0", "client-1", "client-2"
DEVICES = [
    {"name": "chip", "clients": [CHIP], "backend": "onnx", "link": {"latency_ms": 5.0}},
    {"name": "laptop", "clients": [LAPTOP]},
]
ARMS = [
    {"name": "ann"},
    {
        "name": "snn",
        "clients": [LAPTOP, REST],
        "model": {"spiking": True},
        "encoding": {"n_steps": 8},
    },
]
GONE = Missing(why="none here")
CALM = Conditions(temperatures_c=GONE, throttling=GONE, clock_hz=GONE)
LAYER = LayerCount(name="hidden", neurons=8, steps=8, spikes=3.0, acs=100.0, dense=200.0)


def form(*, exact: bool, n_differing: int, n_correct: int = 12) -> Deployment:
    return Deployment(
        form="simulated chip" if exact else "int8",
        n_correct=n_correct,
        n_examples=16,
        duration_s=0.8,
        exact=exact,
        agreements=(Agreement(what="spikes of hidden", n_compared=4096, n_differing=n_differing),),
        operations=(LAYER,),
    )


def on_chip(report: PhaseReport, *, card: str) -> PhaseReport:
    """What the chip's client says of the same round: joules measured, forms profiled."""
    forms: tuple[Deployment, ...] = ()
    phases = [replace(record, measured=(reading(record),)) for record in report.phases]
    if report.evaluation is not None:
        wrong = 7 if report.ticket.round == 3 else 0
        forms = form(exact=True, n_differing=wrong), form(exact=False, n_differing=5)
        (evaluated,) = (record for record in phases if record.phase is Phase.EVALUATE)
        phases.append(replace(evaluated, phase=Phase.PROFILE))
    return replace(
        report,
        attempt=1,
        phases=tuple(phases),
        machine_card=card,
        surroundings=Surroundings(start=CALM, end=CALM, operations=(LAYER,), deployments=forms),
    )


def reading(record: PhaseRecord) -> EnergyReading:
    return EnergyReading(
        energy_j=7.0,
        uncertainty_j=0.1,
        duration_s=record.duration_s,
        rail="VDD_IN",
        boundary=Boundary.MODULE_INPUT,
        method="integrated",
        coverage=1.0,
        n_samples=10,
        longest_gap_s=0.01,
        meter="jetson 1",
    )


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, build: Callable):
    """A judged run: the chip's batches were rebuilt exactly, the laptop's not at all."""
    schedule = {"rounds": 9, "quorum": 2, "evaluate_every": 3}
    world = build(
        tmp_path_factory.mktemp("devices"),
        devices=DEVICES,
        arms=ARMS,
        schedule=schedule,
        attack={"victim_rounds": [0, 8], "restarts": 2, "iterations": 60},
    )
    world.answer_with(
        "ann",
        [
            replace(answer, candidates=np.stack([world.truths[answer.ticket].inputs] * 2))
            if answer.ticket.client_id == CHIP
            else replace(answer, candidates=np.zeros_like(answer.candidates))
            if answer.ticket.client_id == LAPTOP
            else answer
            for answer in world.answers["ann"]
        ],
    )
    judge(world.run, world.private)
    (ann, _) = load_results(world.run).arms
    with Store(world.run.store_file) as store:
        hello = Hello(
            client_id=CHIP,
            versions={"leakwatt": "0.1.0", "onnxruntime": "1.32.0"},
            backends=("onnx",),
            codecs=("f32",),
            machine_card={"board": "a chip", "wheels": {"torch": {"why": "not installed"}}},
        )
        store.greet(hello)
        for report in ann.reports:
            if report.ticket.client_id == CHIP:
                store.save_report(on_chip(report, card=digest(hello.machine_card)))
    return world


@pytest.fixture(scope="package")
def results(world) -> Results:
    return load_results(world.run)


@pytest.fixture(scope="package")
def found(results: Results) -> dict[tuple[str, str], DeviceResults]:
    return {(one.part.arm.name, one.device.name): one for one in by_device(results)}


@pytest.fixture(scope="package")
def page(world) -> Path:
    return write_report(world.run)


@pytest.fixture(scope="package")
def source(page: Path) -> str:
    return page.read_text()


@pytest.fixture(scope="package")
def cells(found: dict[tuple[str, str], DeviceResults]) -> dict[tuple[str, str, str], str]:
    """By arm, device and label."""
    return {
        (table.arm, device, label.strip()): cell
        for table in device_tables(list(found.values()))
        for label, those in table.lines
        for device, cell in zip(table.devices, those, strict=True)
    }
