"""A study file: its cells, what names them, and how long they will take."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import ConfigError
from fedcore.plan import Choice

pytest.importorskip("torch")  # networks and attacks are looked up when a file is read

from testbed.folders import find_study
from testbed.report.canvas import N_LOOKS
from testbed.study.costs import Cost, costs_of, estimate, read_costs, write_costs
from testbed.study.design import Cell, DataSource, Study, load_study
from testbed.study.fingerprint import CELL_SOURCES, fingerprint
from testbed.study.material import load_material
from testbed.study.panels import panels_of
from testbed.study.results import NOT_RUN, Outcome, StudyFolder
from testbed.study.running import Results

pytestmark = pytest.mark.torch

TEXT = """
name = "mine"
n_victims = 3
data.digits.dataset = { name = "digits" }
networks.conv = { name = "convnet", spiking_gain = 2.5 }
codings.direct = { name = "direct" }
codings.rate = { name = "rate" }
attacks.peeling = { name = "peeling", iterations = 10 }

[[grids]]
name = "twins"
title = "Twins"
data = ["digits"]
networks = ["conv"]
codings = ["direct", "rate"]
n_steps = [2, 4]
surrogates = ["fast_sigmoid", "arctan"]
stages = ["trained"]
attacks = ["peeling"]
"""


def study(tmp_path: Path, text: str = TEXT) -> Study:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return load_study(file)


def test_every_shipped_study_can_be_read_and_no_two_of_its_cells_share_a_digest() -> None:
    for name in ("small", "full"):
        cells = load_study(find_study(Path(name))).cells
        assert len({cell.digest("") for cell in cells}) == len(cells) > 100


@pytest.mark.parametrize("name", ["small", "full"])
def test_no_figure_of_a_shipped_study_has_series_that_look_alike(name, tmp_path) -> None:
    study = load_study(find_study(Path(name)))
    outcomes = tuple((cell, NOT_RUN) for cell in study.cells)
    results = Results(folder=StudyFolder(tmp_path), study=study, code="", outcomes=outcomes)
    for grid in study.grids:
        panels = panels_of(results, grid)
        assert all(1 <= len(panel.series) <= N_LOOKS for panel in panels), grid.name
        shown = [cell for p in panels for row in p.series.values() for cell, _ in row.values()]
        assert len(shown) == len(study.cells_of(grid))  # none hides another
        assert len({panel.title for panel in panels}) == len(panels)


def test_a_grid_is_a_product_in_which_equal_combinations_fall_together(tmp_path) -> None:
    cells = study(tmp_path).cells
    ann = [cell for cell in cells if cell.twin == "ann"]
    # One directly coded conventional network, whatever the steps and surrogates; rate has steps.
    assert [(c.coding, c.encoding.n_steps) for c in ann] == [
        ("direct", 1),
        ("rate", 2),
        ("rate", 4),
    ]
    assert len(cells) - len(ann) == 2 * 2 * 2
    assert {cell.surrogate for cell in ann} == {""}
    shape = (1, 8, 8)
    snn = next(cell for cell in cells if cell.twin == "snn")
    assert snn.model(input_shape=shape, n_classes=10).init_gain == 2.5
    assert ann[0].model(input_shape=shape, n_classes=10).init_gain == 1.0


def test_cells_of_two_grids_run_once(tmp_path) -> None:
    once = study(tmp_path)
    twice = study(tmp_path, TEXT + TEXT[TEXT.index("[[grids]]") :].replace('"twins"', '"again"'))
    assert twice.cells == once.cells


def test_a_digest_changes_with_every_setting_and_with_the_program(tmp_path) -> None:
    cell = study(tmp_path).cells[0]
    others = [
        replace(cell, seed=1),
        replace(cell, stage="init"),
        replace(cell, n_victims=4),
        replace(cell, setting=replace(cell.setting, iterations=11)),
        replace(cell, source=replace(cell.source, n_seen=7)),
        replace(cell, kind=replace(cell.kind, options={"channels": [4]})),
    ]
    names = {cell.digest("code"), cell.digest("other code"), *(c.digest("code") for c in others)}
    assert len(names) == 2 + len(others)


def test_the_fingerprint_follows_what_is_in_the_sources(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("testbed.study.fingerprint._ROOT", tmp_path)
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("x = 1\n")
    before = fingerprint(("room",))
    (tmp_path / "room" / "note.txt").write_text("no source")
    assert fingerprint(("room",)) == before
    (tmp_path / "room" / "a.py").write_text("x = 2\n")
    assert fingerprint(("room",)) != before


def test_the_sources_that_are_fingerprinted_exist() -> None:
    root = Path(__file__).parents[2]
    assert all((root / source).exists() for source in CELL_SOURCES)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('attacks = ["peeling"]', 'attacks = ["peling"]', "attacks names 'peling', which has no"),
        ('data = ["digits"]', 'data = ["mnist"]', "data names 'mnist', which has no table"),
        ('{ name = "rate" }', '{ name = "ratte" }', "codings.rate: no encoding 'ratte'"),
        ("iterations = 10", "iteration = 10", "did you mean 'iterations'?"),
        (
            "iterations = 10",
            "options = { jiter = 1 }",
            "attacks.peeling: attack 'peeling': unknown",
        ),
        ('"convnet"', '"convnett"', "networks.conv: no model 'convnett'"),
        ('"fast_sigmoid"', '"fast"', "surrogates[0]: got 'fast', expected one of"),
        ("n_victims = 3", "n_victims = 0", "n_victims must be >= 1; got 0"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(old: str, new: str, says: str, tmp_path) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        study(tmp_path, TEXT.replace(old, new))
    assert str(caught.value).startswith("mine.toml: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def done(cpu_s: float, training_s: float = 0.0) -> Outcome:
    return Outcome(state="done", cpu_s=cpu_s, training_s=training_s)


def test_an_estimate_grows_with_the_work_and_counts_a_network_once(tmp_path) -> None:
    snn = [c for c in study(tmp_path).cells if c.twin == "snn" and c.surrogate == "arctan"]
    cell = next(c for c in snn if c.encoding.n_steps == 2)
    costs = list(costs_of([(cell, done(2.0, training_s=3.0))]))
    assert estimate([cell], costs).cpu_s == pytest.approx(5.0)
    assert estimate([cell], costs, trained={cell.network_key}).cpu_s == pytest.approx(2.0)
    more = replace(cell, setting=replace(cell.setting, iterations=30))
    assert estimate([cell, more], costs).cpu_s == pytest.approx(3.0 + 2.0 + 6.0)
    stranger = replace(cell, data="other", attack="other", twin="ann")
    assert estimate([stranger], costs).n_unknown == 2  # the attack, and the training


def test_costs_survive_their_file(tmp_path) -> None:
    cost = Cost(data="a", network="b", twin="snn", attack="c", work=4.0, cpu_s=2.0)
    write_costs(tmp_path / "costs.json", [cost, cost])
    assert read_costs(tmp_path / "costs.json") == [replace(cost, work=8.0, cpu_s=4.0)]
    with pytest.raises(ConfigError, match="no measured costs"):
        read_costs(tmp_path / "none.json")


@pytest.mark.parametrize("split", ["published", "own"])
def test_what_networks_learn_is_never_attacked_and_baselines_know_neither(split) -> None:
    pytest.importorskip("sklearn")
    material = load_material(DataSource(dataset=Choice(name="digits"), split=split), [])
    sets = [
        {example.tobytes() for example in inputs}
        for inputs in (material.train.inputs, material.victims.inputs, material.auxiliary.inputs)
    ]
    assert all(len(s) > 100 for s in sets)
    assert not sets[1] & sets[2]
    assert len(sets[0] & sets[1]) <= 1  # the bundled digits repeat an image
    with pytest.raises(ConfigError, match="need 4000 held-out examples"):
        material.batches(1000, size=4)
    first, second = material.batches(2, size=2)
    assert not np.array_equal(first.inputs, second.inputs)


def test_whoever_is_attacked_was_learnt_from_by_nobody(tmp_path) -> None:
    """Windows of one person overlap, so persons stay together."""
    signals = tmp_path / "har" / "test" / "Inertial Signals"
    signals.mkdir(parents=True)
    people = np.repeat(np.arange(1, 10), 3)
    rng = np.random.default_rng(0)
    for kind in ("body_acc", "total_acc", "body_gyro"):
        for axis in "xyz":
            np.savetxt(signals / f"{kind}_{axis}_test.txt", rng.normal(size=(27, 128)))
    np.savetxt(signals.parent / "subject_test.txt", people, fmt="%d")
    np.savetxt(signals.parent / "y_test.txt", 1 + np.arange(27) % 6, fmt="%d")
    source = DataSource(dataset=Choice(name="uci-har"), folder="har", split="own")
    material = load_material(source, [tmp_path / "nothing", tmp_path])
    learnt, attacked = (set(s.subjects) for s in (material.train, material.victims))
    assert len(learnt) == 6
    assert attacked
    assert not learnt & attacked
    assert len(material.auxiliary.inputs) + 3 * len(attacked) == 9


def test_a_cell_knows_what_shares_its_network(tmp_path) -> None:
    cell: Cell = study(tmp_path).cells[0]
    assert replace(cell, attack="x", batch_size=9).network_key == cell.network_key
    assert replace(cell, seed=1).network_key != cell.network_key
