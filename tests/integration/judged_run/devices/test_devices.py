"""Devices side by side: each one's own figures, kinds of joules apart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rich")  # the summary's tables

from fedcore.types import Missing
from testbed.by_device import by_device
from testbed.costs import best_energy
from testbed.economy import prices
from testbed.exports import export
from testbed.fairness import unlike_devices
from testbed.report.words import DASH
from testbed.results import Results

from .conftest import CHIP, LAPTOP, REST


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
