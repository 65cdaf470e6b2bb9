"""Deployed forms: counted by themselves, contradictions on top."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rich")  # the summary's tables

from fedcore.devices import Deployment
from fedcore.energy import PhaseReport, Surroundings
from fedcore.errors import RunError
from fedcore.types import Missing
from testbed.by_device import by_device, contradictions, deployed_forms
from testbed.pipeline import show_report
from testbed.report.devices import (
    device_gaps,
    device_plain,
    form_rows,
    last_forms,
)
from testbed.report.summary import summary_table, summary_text
from testbed.report.words import DASH
from testbed.results import Results

from .conftest import CALM, LAPTOP, form


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
