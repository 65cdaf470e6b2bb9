"""One small study on digits, from its file to its page, stopped and gone on with."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from fedcore.types import Missing
from testbed import cli
from testbed.study.cells import Laboratory
from testbed.study.results import Outcome, StudyFolder
from testbed.study.running import Results, read_results
from testbed.study.strongest import twin_rows

pytestmark = pytest.mark.torch

TEXT = """
name = "tiny"
n_victims = 3
data.digits = { dataset = { name = "digits" }, n_seen = 2000 }
networks.mlp = { name = "mlp", options = { hidden = [64] } }
codings.direct = { name = "direct" }
codings.rate = { name = "rate" }
attacks.first-layer = { name = "first-layer", restarts = 1, iterations = 1 }
attacks.peeling = { name = "peeling", restarts = 2, iterations = 60 }

[data.elsewhere]
dataset = { name = "mnist" }
how_to_get = "ask <b>torchvision</b>"

[[grids]]
name = "codings"
title = "By encoding"
x = "coding"
data = ["digits"]
networks = ["mlp"]
codings = ["direct", "rate"]
n_steps = [3]
stages = ["trained"]
attacks = ["first-layer", "peeling"]

[[grids]]
name = "absent"
title = "Data that are not there"
data = ["elsewhere"]
networks = ["mlp"]
stages = ["init"]
attacks = ["first-layer"]
"""
HOLDS = """
import sys, time
from pathlib import Path
from testbed.locks import hold
held = hold(Path(sys.argv[1]))
print()
time.sleep(60)
"""
N_CELLS, N_REFUSED, N_MISSING = 10, 2, 2


def run(folder: Path, *arguments: str) -> int:
    file = folder / "tiny.toml"
    if not file.exists():
        file.write_text(TEXT)
    return cli.main(["study", str(file), "--out", str(folder / "out"), *arguments])


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("study")
    assert run(folder) == 0
    return folder, read_results(StudyFolder(folder / "out"))


def outcome_of(results: Results, **wanted: str):
    (found,) = [
        outcome
        for cell, outcome in results.outcomes
        if all(getattr(cell, key) == value for key, value in wanted.items())
    ]
    return found


def test_every_cell_is_done_refused_or_missing_and_says_why(ran) -> None:
    states = [outcome.state for _, outcome in ran[1].outcomes]
    assert len(states) == N_CELLS
    assert (states.count("refused"), states.count("missing")) == (N_REFUSED, N_MISSING)
    assert all(outcome.why for _, outcome in ran[1].outcomes if outcome.state != "done")
    refused = outcome_of(ran[1], twin="ann", coding="rate", attack="peeling")
    assert "'rate' makes spikes; a conventional network is given the input itself" in refused.why
    missing = outcome_of(ran[1], data="elsewhere", twin="snn")
    assert missing.why.endswith("ask <b>torchvision</b>")


def test_updates_are_attacked_as_they_crossed_the_wire_and_scored_beside_baselines(ran) -> None:
    exact = outcome_of(ran[1], twin="snn", coding="rate", attack="first-layer")
    assert exact.summaries["spike-iou"].mean.value > 0.9  # measured: 1.0
    assert len({attempt.sha256 for attempt in exact.attempts}) == 3
    for twin in ("ann", "snn"):
        found = outcome_of(ran[1], data="digits", twin=twin, coding="direct", attack="first-layer")
        assert found.accuracy > 0.3  # chance is 0.1
        assert found.summaries["psnr"].mean.value > 100  # measured: 150, the ceiling
        assert found.summaries["psnr"].success.n_yes == 3
        assert found.summaries["psnr"].baselines["mean-image"].value < 20
        assert found.summaries["reidentified"].mean.value == 1
        assert found.n_pool > 150
    assert isinstance(exact.summaries["smape"].mean, Missing)  # an image is no series


def test_what_is_done_is_not_done_again(ran, monkeypatch) -> None:
    folder, before = ran
    asked = []

    def only_the_missing(self, cell, *, tell):
        asked.append(cell.data)
        return before.outcomes[-1][1]

    monkeypatch.setattr(Laboratory, "run", only_the_missing)
    assert run(folder) == 0
    assert asked == ["elsewhere"] * N_MISSING
    assert read_results(before.folder).outcomes == before.outcomes


def test_a_study_that_was_killed_goes_on_to_the_same_end(ran, tmp_path, capsys) -> None:
    """One cell is gone, another was only half written."""
    before = ran[1]
    (tmp_path / "tiny.toml").write_text(TEXT)
    out = StudyFolder(tmp_path / "out")
    cells = [cell for cell, outcome in before.outcomes if outcome.state == "done"]
    for file in sorted(before.folder.root.rglob("*")):
        if file.is_file():
            copy = out.root / file.relative_to(before.folder.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    for cell in cells[:2]:
        path = out.root / "cells" / f"{cell.digest(before.code)}.json"
        path.rename(path.with_name(path.name + ".part"))
    assert run(tmp_path) == 0
    assert f"{N_CELLS} cells, {2 + N_MISSING} to run" in capsys.readouterr().err
    for (cell, again), (_, first) in zip(read_results(out).outcomes, before.outcomes, strict=True):
        assert (again.state, again.scores, again.accuracy) == (
            first.state,
            first.scores,
            first.accuracy,
        ), cell


def test_another_program_finds_no_result_and_the_page_can_still_be_drawn(
    ran, monkeypatch, capsys
) -> None:
    folder, before = ran
    before.folder.page.unlink()
    monkeypatch.setattr(Laboratory, "run", None)
    assert run(folder, "--draw-only") == 0
    assert capsys.readouterr().out.strip() == str(before.folder.page)
    assert before.folder.page.exists()
    done = {outcome.state for cell, outcome in before.outcomes}
    other = {before.folder.outcome(cell, "another program").why for cell, _ in before.outcomes}
    assert "done" in done
    assert other == {"not run yet"}


def test_twins_are_compared_on_the_same_victims_by_their_strongest_attacks(ran) -> None:
    (row,) = twin_rows(ran[1].outcomes)
    assert row.title == "digits, mlp, trained"
    for one in (row.ann, row.snn):
        assert (one.cell.attack, one.cell.coding) == ("first-layer", "direct")
    assert row.difference.value == pytest.approx(0, abs=1e-6)
    without = [pair for pair in ran[1].outcomes if pair[0].attack != "first-layer"]
    (weaker,) = twin_rows(without)
    assert weaker.ann.cell.attack == "peeling"
    assert weaker.ann.psnr.mean.value < row.ann.psnr.mean.value


def test_the_page_is_one_file_that_hides_nothing(ran) -> None:
    page = ran[1].folder.page.read_text()
    assert "By encoding" in page
    assert "exact networks, data and settings are unknown to us" in page
    assert "makes spikes; a conventional network" in page
    assert "ask &lt;b&gt;torchvision&lt;/b&gt;" in page
    assert "<b>torchvision" not in page
    assert f"{N_CELLS} cells: {N_CELLS - N_REFUSED - N_MISSING} done" in page
    for link in re.findall(r'<a href="([^"]+)"', page):
        assert (ran[1].folder.root / link).exists(), link
    assert page.count('src="data:image/png') == page.count("<img") > 0


def test_the_tables_say_the_same_as_the_cells(ran) -> None:
    tables = ran[1].folder.root / "tables"
    rows = list(csv.DictReader((tables / "cells.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == [o.state for _, o in ran[1].outcomes]
    scores = json.loads((tables / "scores.json").read_text())
    (exact,) = [
        score
        for row, (cell, _) in zip(rows, ran[1].outcomes, strict=True)
        for score in scores
        if (cell.twin, cell.coding, cell.attack) == ("snn", "rate", "first-layer")
        if (score["cell"], score["metric"]) == (row["cell"], "psnr")
    ]
    outcome = outcome_of(ran[1], twin="snn", coding="rate", attack="first-layer")
    assert exact["mean"] == pytest.approx(outcome.summaries["psnr"].mean.value)
    assert exact["n_success"] <= exact["n"] == 3


def test_a_long_study_asks_first_and_starts_nothing(tmp_path, capsys) -> None:
    (tmp_path / "tiny.toml").write_text(TEXT.replace('"tiny"', '"tiny"\nask_first = true'))
    assert run(tmp_path) == 2
    said = capsys.readouterr().err
    assert re.search(r"tiny.toml is long: 10 cells to run, .*; add --yes to start it\n", said)
    assert not (tmp_path / "out").exists()
    assert cli.main(["study", "smal"]) == 2
    assert "did you mean 'small'?" in capsys.readouterr().err
    assert run(tmp_path, "--draw-only") == 1


def test_a_fault_of_one_attack_does_not_cost_the_others(ran, tmp_path, monkeypatch) -> None:
    def faulty(self, cell, *, tell):
        if cell.attack == "peeling":
            raise ZeroDivisionError("float division by zero")
        return before[cell.digest("")]

    before = {cell.digest(""): outcome for cell, outcome in ran[1].outcomes}
    monkeypatch.setattr(Laboratory, "run", faulty)
    assert run(tmp_path) == 1
    results = read_results(StudyFolder(tmp_path / "out"))
    broken = [outcome for cell, outcome in results.outcomes if cell.attack == "peeling"]
    assert {outcome.why for outcome in broken} == {"ZeroDivisionError: float division by zero"}
    assert sum(outcome.state == "broken" for _, outcome in results.outcomes) == len(broken)
    assert "float division by zero" in results.folder.page.read_text()
    monkeypatch.undo()
    assert run(tmp_path) == 0


def test_one_process_at_a_time_runs_a_study_and_a_killed_one_leaves_no_lock(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(Laboratory, "run", lambda self, cell, *, tell: Outcome(state="refused"))
    with subprocess.Popen(
        [sys.executable, "-uc", HOLDS, tmp_path / "out" / "lock"], stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert run(tmp_path) == 1
        assert f"run by another process ({other.pid}); wait" in capsys.readouterr().err
        assert run(tmp_path, "--draw-only") == 1  # it asks for no lock; there is nothing to draw
        assert "no study has run here; run it first" in capsys.readouterr().err
        other.kill()
    assert run(tmp_path) == 0


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"outcome": {"state": "gone"}}'])
def test_a_damaged_cell_is_named_with_what_to_do(ran, tmp_path, capsys, text) -> None:
    cell, _ = ran[1].outcomes[0]
    path = ran[1].folder.root / "cells" / f"{cell.digest(ran[1].code)}.json"
    whole = path.read_bytes()
    try:
        path.write_text(text)
        assert run(ran[0], "--draw-only") == 1
    finally:
        path.write_bytes(whole)
    said = capsys.readouterr().err
    assert f"{path}: damaged" in said
    assert "delete it and start the same study again" in said
    assert said.count("\n") == 1
