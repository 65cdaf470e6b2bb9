"""Devices side by side: each one's own figures, kinds of joules apart, contradictions on top."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rich")  # the summary's tables

from aggregator.store import Store
from fedcore.conditions import Conditions
from fedcore.devices import Agreement, Deployment
from fedcore.energy import Boundary, EnergyReading, Phase, PhaseRecord, PhaseReport, Surroundings
from fedcore.errors import RunError
from fedcore.operations import LayerCount
from fedcore.strict import digest
from fedcore.types import Missing
from fedcore.wire.messages import Hello
from testbed.by_device import DeviceResults, by_device, contradictions, deployed_forms
from testbed.costs import best_energy
from testbed.economy import prices
from testbed.exports import export
from testbed.fairness import unlike_devices
from testbed.judge import judge
from testbed.pipeline import show_report
from testbed.report.devices import (
    device_gaps,
    device_plain,
    device_tables,
    form_rows,
    last_forms,
)
from testbed.report.page import write_report
from testbed.report.summary import summary_table, summary_text
from testbed.report.words import DASH
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def results(world) -> Results:
    return load_results(world.run)


@pytest.fixture(scope="module")
def found(results: Results) -> dict[tuple[str, str], DeviceResults]:
    return {(one.part.arm.name, one.device.name): one for one in by_device(results)}


@pytest.fixture(scope="module")
def page(world) -> Path:
    return write_report(world.run)


@pytest.fixture(scope="module")
def source(page: Path) -> str:
    return page.read_text()


@pytest.fixture(scope="module")
def cells(found: dict[tuple[str, str], DeviceResults]) -> dict[tuple[str, str, str], str]:
    """By arm, device and label."""
    return {
        (table.arm, device, label.strip()): cell
        for table in device_tables(list(found.values()))
        for label, those in table.lines
        for device, cell in zip(table.devices, those, strict=True)
    }


def test_every_client_belongs_to_one_device(found) -> None:
    assert {key: one.clients for key, one in found.items()} == {
        ("ann", "chip"): (CHIP,),
        ("ann", "laptop"): (LAPTOP,),
        ("ann", "torch"): (REST,),
        ("snn", "chip"): (),
        ("snn", "laptop"): (LAPTOP,),
        ("snn", "torch"): (REST,),
    }
    assert found["ann", "chip"].backends == ("onnx",)
    assert "onnxruntime 1.32.0" in found["ann", "chip"].versions


def test_a_devices_leakage_is_that_of_its_own_victims(results: Results, found, cells) -> None:
    for (arm, _), one in found.items():
        if not one.clients:
            continue
        everybody = next(a for a in results.arms if a.arm.name == arm).findings
        own = [
            score
            for score in everybody.scores
            if score.metric == "psnr" and score.ticket.client_id in one.clients
        ]
        assert {score.ticket.client_id for score in own} == set(one.clients)
        psnr = one.part.findings.summary("psnr")
        assert psnr.mean.value == pytest.approx(np.mean([score.value for score in own]))
        for null in ("noise", "mean-image"):
            oracle = np.mean([score.baselines[null] for score in own])
            assert psnr.baselines[null].value == pytest.approx(oracle)
    assert found["ann", "chip"].part.findings.summary("psnr").success.n_yes == 2
    assert found["ann", "laptop"].part.findings.summary("psnr").success.n_yes == 0
    assert cells["ann", "chip", "better than both (95 %)"].startswith("100.0 %")
    assert cells["ann", "laptop", "better than both (95 %)"].startswith("0.0 %")


def test_a_device_that_takes_no_part_says_so(cells) -> None:
    assert cells["snn", "chip", "clients"] == "takes no part"
    others = {cell for (arm, device, _), cell in cells.items() if (arm, device) == ("snn", "chip")}
    assert others == {"takes no part", DASH}


def test_measured_and_modelled_joules_are_never_one_figure(page: Path, found, cells) -> None:
    assert cells["ann", "chip", "energy per client-round"].endswith("measured")
    assert cells["ann", "chip", "measured by"] == "jetson 1, module-input"
    assert cells["ann", "laptop", "measured by"] == DASH
    assert cells["ann", "chip", "versions"] == "onnxruntime 1.32.0"
    assert cells["ann", "laptop", "energy per client-round"].endswith("MODELLED")
    chip = best_energy(list(found["ann", "chip"].part.costs.values()))
    assert chip.value_j == pytest.approx(5 * 7.0)  # five work phases; profiling is none
    figures = page.parent / "figures"
    measured = (figures / "plane-devices-ann-measured.svg").read_text()
    modelled = (figures / "plane-devices-ann-modelled.svg").read_text()
    assert "chip · " in measured
    assert "laptop" not in measured
    assert "MODELLED" not in measured
    assert "MODELLED" in modelled
    assert "laptop · " in modelled
    assert "chip" not in modelled


def test_one_devices_joules_do_not_stand_for_anothers(results: Results, source: str) -> None:
    """Only the chip was measured: the arm's mean is its alone, and there is none per round."""
    per_round = prices(results.arms[0])["round"]
    assert isinstance(per_round, Missing)
    assert "no measured energy of client-1, client-2" in per_round.why
    assert "measured, 9 of 27 client-rounds" in source
    assert "No sensor measured some of the clients" in source


def test_phases_stand_only_where_they_were(page: Path, cells) -> None:
    assert cells["ann", "chip", "profile"] != DASH
    assert cells["ann", "laptop", "profile"] == DASH
    assert ("snn", "laptop", "profile") not in cells
    for arm in ("ann", "snn"):
        legend = (page.parent / "figures" / f"latency-{arm}.svg").read_text()
        assert "train" in legend
        assert "profile" not in legend


def test_forms_are_counted_over_their_own_client_rounds(found) -> None:
    forms = deployed_forms(found["ann", "chip"])
    assert [(f.round, f.form) for f in forms] == [
        (number, name) for number in (0, 3, 6, 9) for name in ("int8", "simulated chip")
    ]
    assert (forms[0].deployed.n_yes, forms[0].deployed.n) == (12, 16)
    evaluated = {a.round: a.share for a in found["ann", "chip"].part.accuracies}
    assert all(f.trained == evaluated[f.round] for f in forms)
    assert forms[0].seconds_per_example == pytest.approx(0.05)
    assert not deployed_forms(found["ann", "laptop"])


def test_a_form_that_could_not_be_made_says_why_where_its_figures_would_stand(results) -> None:
    why = Missing(why="it has no int8 form")
    (ann, snn) = results.arms
    found = by_device(replace(results, arms=(replace(ann, missing_graphs={"int8": why}), snn)))
    last = {one.device.name: last_forms(one) for one in found if one.part.arm.name == "ann"}
    assert not last["laptop"]  # it runs torch, which would not deploy it either
    (form,) = (one for one in last["chip"] if one.form == "int8")
    assert (form.round, form.deployed, form.operations) == (9, why, why)
    (row,) = form_rows([form])
    assert (row["deployed"], row["time"]) == (DASH, DASH)
    assert row["trained"] != DASH
    assert row["agreements"] == [("did not run on 1 client: it has no int8 form", False)]
    assert ("ann", "accuracy, int8 on chip", "it has no int8 form") in list(device_gaps(found))
    assert contradictions(found) == contradictions(by_device(results))


def test_a_contradiction_is_an_error_wherever_the_run_is_shown(world, results, source: str) -> None:
    (error,) = contradictions(by_device(results))
    assert error.startswith("chip in ann: its deployed form (simulated chip) must do exactly")
    assert error.endswith("first client-0, round 3: 7 of 4,096 spikes of hidden differ.")
    assert source.index(f'role="alert"><strong>ERROR.</strong> {error}') < source.index("<h1>")
    assert source.count('class="wrong"') == 1  # in the table, and what may differ is none
    assert summary_text(world.run).startswith(f"ERROR: {error}\n")
    ann, snn = summary_table(world.run)
    assert (ann["contradictions"], snn["contradictions"]) == ([error], [])


def test_no_leakage_is_shown_where_attacks_differentiated_another_network(found) -> None:
    """The chip's form of round 3 differs from what was trained."""
    chip = found["ann", "chip"]
    shown = device_plain(chip)["psnr"]
    assert not isinstance(shown, Missing)

    def attacked(report: PhaseReport) -> PhaseReport:
        forms = tuple(replace(f, attacked=f.exact) for f in report.surroundings.deployments)
        return replace(report, surroundings=replace(report.surroundings, deployments=forms))

    part = replace(chip.part, reports=tuple(map(attacked, chip.part.reports)))
    hidden = device_plain(replace(chip, part=part))["psnr"]
    assert hidden == Missing(why="attacks differentiate a form of the network that differs from it")


def test_a_command_ends_with_the_contradiction(
    world, page: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testbed.pipeline.write_report", lambda _: page)
    with pytest.raises(RunError, match="7 of 4,096 spikes of hidden differ"):
        show_report(world.run, as_json=True)
    table = json.loads(capsys.readouterr().out)  # whole, all the same
    assert [one["device"] for one in table["arms"][0]["devices"]] == ["chip", "laptop", "torch"]
    kinds = ("measured_energy_per_client_round", "modelled_energy_per_client_round")
    laptop = table["arms"][0]["devices"][1]
    assert [laptop[kind].get("kind") for kind in kinds] == [None, "modelled"]


@pytest.mark.parametrize(
    ("deployment", "why"),
    [
        (form(exact=True, n_differing=0), ""),
        (form(exact=False, n_differing=9), ""),
        (form(exact=True, n_differing=1), "1 of 4,096 spikes"),
        (replace(form(exact=True, n_differing=0), agreements=()), "nothing was compared"),
        (replace(form(exact=True, n_differing=0), failed="no chip"), "did not run (no chip)"),
        (replace(form(exact=False, n_differing=0), failed="no chip"), ""),
    ],
)
def test_what_must_be_exact_and_is_not_known_to_be_is_an_error(
    results: Results, deployment: Deployment, why: str
) -> None:
    said = contradictions(by_device(with_deployments(results, [deployment])))
    assert len(said) == bool(why)
    assert all(why in text for text in said)


def test_a_contradiction_needs_no_named_device(results: Results) -> None:
    bare = replace(results, experiment=replace(results.experiment, devices=()))
    assert len(contradictions(by_device(bare))) == 1


def test_impossible_counts_of_a_client_are_missing(results: Results) -> None:
    odd = with_deployments(results, [form(exact=False, n_differing=0, n_correct=17)])
    (one,) = (f for f in by_device(odd) if f.device.name == "laptop" and f.part.arm.name == "ann")
    assert all("17 of 16" in f.deployed.why for f in deployed_forms(one))


def with_deployments(results: Results, deployments: Sequence[Deployment]) -> Results:
    """The first arm's, told by the laptop at the first round instead of by the chip."""
    around = Surroundings(start=CALM, end=CALM, deployments=tuple(deployments))
    reports = tuple(
        replace(
            r,
            surroundings=around if (r.ticket.client_id, r.ticket.round) == (LAPTOP, 0) else None,
        )
        for r in results.arms[0].reports
    )
    return replace(results, arms=(replace(results.arms[0], reports=reports), results.arms[1]))


def test_the_page_prices_forms_beside_what_was_trained(source: str) -> None:
    section = source[source.index('id="forms"') : source.index('id="grids"')]
    for column in ("chip in ann, trained", "chip in ann, int8", "chip in ann, simulated chip"):
        assert f">{column}</th>" in section
        assert f">{column}, forward</th>" in section
    assert "training</th>" not in section
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|figures/)""", source)


def test_tables_hold_devices_and_forms(world, results: Results, tmp_path: Path) -> None:
    tables = {path.stem: path for path in export(world.run, format="json", out=tmp_path)}
    devices, deployments = (json.loads(tables[n].read_text()) for n in ("devices", "deployments"))
    assert len(devices) == 2 * 3
    chip, laptop = devices[:2]
    assert (chip["measured_energy_j"], chip["measured_by"]) == (
        pytest.approx(35.0),
        "jetson 1, module-input",
    )
    assert laptop["measured_energy_j"] is None
    assert laptop["measured_energy_j_missing"] == "no energy sensor on this machine"
    assert laptop["modelled_energy_j"] > 0
    assert [row["contradicts"] for row in deployments].count(True) == 1
    assert {row["client_id"] for row in deployments} == {CHIP}


def test_what_devices_and_arms_differ_in_is_named(results: Results) -> None:
    said = unlike_devices(results, by_device(results))
    (pair,) = (text for text in said if text.startswith("chip and laptop in ann"))
    assert "backend (onnx and " in pair
    assert "link latency_ms (5.0 and 0.0)" in pair
    assert "board (a chip and " in pair
    assert any("ann and snn ran on different clients" in text for text in said)


def test_a_client_that_runs_another_backend_than_the_experiment_says_is_named(
    results: Results,
) -> None:
    rows = tuple(replace(r, hello={**r.hello, "backends": ["torch"]}) for r in results.clients)
    other = replace(results, clients=rows)
    said = unlike_devices(other, by_device(other))
    assert "Clients of chip run torch, while the experiment says onnx." in said
