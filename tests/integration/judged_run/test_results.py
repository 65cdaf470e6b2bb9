"""Loading and export: nothing is lost on the way from the store to the tables."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.types import Missing
from testbed.exports import export
from testbed.judge import judge
from testbed.results import load_results
from testbed.statistics import Share


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_before_the_judge_findings_are_missing_and_the_rest_is_there(world) -> None:
    results = load_results(world.run)
    for arm in results.arms:
        assert isinstance(arm.findings, Missing)
        assert len(arm.updates) == 9 * 3
        assert len(arm.reconstructions) == 9
        assert arm.costs.keys() == {update.ticket for update in arm.updates}


def test_accuracy_is_the_sum_of_correct_over_the_sum_of_examples(world) -> None:
    for arm in load_results(world.run).arms:
        for accuracy in arm.accuracies:
            found = [
                report.evaluation
                for report in arm.reports
                if report.ticket.round == accuracy.round and report.evaluation
            ]
            assert isinstance(accuracy.share, Share)
            assert accuracy.share.n_yes == sum(e.n_correct for e in found)
            assert accuracy.share.n == sum(e.n_examples for e in found)
        assert [accuracy.round for accuracy in arm.accuracies] == [0, 3, 6, 9]


def test_exported_tables_join_on_the_ticket(world, tmp_path: Path) -> None:
    judge(world.run, world.private)
    paths = {path.stem: path for path in export(world.run, format="csv", out=tmp_path)}
    updates, phases, scores = (read_csv(paths[n]) for n in ("updates", "phases", "scores"))
    keys = {(row["run_id"], row["round"], row["client_id"]) for row in updates}
    assert len(keys) == len(updates) == 2 * 9 * 3
    assert {(r["run_id"], r["round"], r["client_id"]) for r in scores} <= keys
    assert {(r["run_id"], r["round"], r["client_id"]) for r in phases} >= keys


def test_modelled_and_measured_joules_never_share_a_column(world, tmp_path: Path) -> None:
    paths = {path.stem: path for path in export(world.run, format="csv", out=tmp_path)}
    phases = read_csv(paths["phases"])
    assert not any("measured_energy" in column for column in phases[0])
    assert not any("modelled" in column for column in csv_columns(paths["readings"]))
    for row in phases:
        assert row["n_measured_rails"] == ""
        assert row["n_measured_rails_missing"] == "no energy sensor on this machine"
    total = math.fsum(float(row["modelled_energy_j"]) for row in phases)
    oracle = math.fsum(
        record.modelled.energy_j
        for arm in load_results(world.run).arms
        for report in arm.reports
        for record in report.phases
    )
    assert total == pytest.approx(oracle)


def csv_columns(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return next(csv.reader(file))


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_every_format_has_every_table(world, tmp_path: Path, format: str) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    names = {path.stem for path in export(world.run, format=format, out=tmp_path)}
    assert names >= {"updates", "phases", "readings", "evaluations", "scores", "audit", "clients"}


def test_an_impossible_evaluation_is_not_averaged_in(make_world: Callable) -> None:
    """Clients report their own counts; one that claims 120 of 100 spoils its round, visibly."""
    from aggregator.store import Store
    from fedcore.energy import Evaluation, PhaseReport
    from fedcore.types import Ticket

    world = make_world()
    run_id = world.run_id("ann")
    with Store(world.run.store_file) as store:
        store.save_report(
            PhaseReport(
                ticket=Ticket(run_id=run_id, round=9, client_id="client-9"),
                attempt=0,
                phases=(),
                evaluation=Evaluation(n_correct=120, n_examples=100, mean_loss=0.0),
                clock_offset_s=0.0,
                clock_uncertainty_s=0.0,
                machine_card="",
            )
        )
    last = load_results(world.run).arms[0].accuracies[-1]
    assert isinstance(last.share, Missing)
    assert "120 of 100" in last.share.why
