"""Graphs for clients on ONNX: traced once, and what cannot be made is said."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("sklearn")  # the digits

import fedcore.nn.export as exporting
from fedcore.config import Experiment, parse_experiment
from fedcore.errors import ConfigError
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.types import Missing
from testbed.experiment import check, prepare
from testbed.oddities import tell_notes

pytestmark = pytest.mark.torch

WHERE = "mine.toml"
SLAYER = {
    "name": "slayer-cuba",
    "surrogate": "exponential",
    "reset": "zero",
    "options": {"current_decay": 0.25},
}
NO_INT8 = "neuron 'slayer-cuba' rounds its weights by itself; it has no int8 form"


def boards(*, neuron: dict[str, Any], training: dict[str, Any]) -> Experiment:
    devices = [
        {"name": f"board-{i}", "clients": [f"client-{i}"], "backend": "onnx"} for i in range(2)
    ]
    model = {
        "name": "mlp",
        "spiking": True,
        "neuron": neuron,
        "readout": "spike_count",
        "options": {"hidden": [6]},
    }
    table = {
        "name": "mine",
        "n_clients": 2,
        "devices": devices,
        "model": model,
        "training": training,
        "strategy": {"name": "fedadam", "options": {"learning_rate": 0.003}},
        "encoding": {"name": "rate", "n_steps": 5},
    }
    return parse_experiment(table, where=WHERE)


def prepared(experiment: Experiment, folder: Path) -> RunFolder:
    run = RunFolder(folder / "run")
    private = PrivateFolder(folder / "private")
    prepare(experiment, run, private, master_file=folder / "master", where=WHERE)
    return run


@pytest.mark.parametrize(
    ("training", "trains_with"),
    [
        ({"update": "gradient"}, "training"),
        ({"update": "delta", "local_steps": 2}, "local_step"),
    ],
)
def test_a_graph_is_traced_once_for_the_plan_and_the_run(
    training: dict[str, Any], trains_with: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = boards(neuron={"name": "lif"}, training=training)
    traced: Counter[str] = Counter()
    translate = exporting.translate

    def counting(*args: Any, name: str, **more: Any) -> bytes:
        traced[name] += 1
        return translate(*args, name=name, **more)

    monkeypatch.setattr(exporting, "translate", counting)
    exporting._traced_once.cache_clear()
    check(experiment, where=WHERE)
    tell_notes(experiment, where=WHERE)
    run = prepared(experiment, tmp_path)
    assert traced == {trains_with: 1, "inference": 1, "int8": 1}
    (arm,) = experiment.arms
    graphs = run.read_graphs(arm)
    assert set(graphs) == set(traced)
    assert all((run.artefacts / sha256).is_file() for sha256 in graphs.values())
    assert not run.missing_graphs(arm)


def test_the_absence_of_an_int8_form_is_said_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = boards(neuron=SLAYER, training={"update": "gradient"})
    check(experiment, where=WHERE)
    tell_notes(experiment, where=WHERE)
    assert capsys.readouterr().err == (
        f"{WHERE}: note: arm 'main': clients on backend 'onnx' train and run no int8 form: "
        f"{NO_INT8}\n"
    )
    run = prepared(experiment, tmp_path)
    (arm,) = experiment.arms
    assert set(run.read_graphs(arm)) == {"training", "inference"}
    assert run.missing_graphs(arm) == {"int8": Missing(why=NO_INT8)}


@pytest.mark.parametrize("damaged", [3, {"int8": 3}, {"int8": {}}, {"int8": None}])
def test_damaged_graphs_are_refused_by_the_files_name(damaged: object, tmp_path: Path) -> None:
    (arm,) = boards(neuron=SLAYER, training={}).arms
    run = RunFolder(tmp_path)
    run.graphs_file.write_text(json.dumps({arm.name: damaged}))
    with pytest.raises(ConfigError, match=r"graphs\.json: not the graphs of a run"):
        run.read_graphs(arm)
