"""`leakwatt operations`: counts of an experiment's own networks on its own data."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from hardware.operations import operation_tables
from testbed.cli import main

EXPERIMENT = """
name = "counted"
[[arms]]
name = "ann"
[[arms]]
name = "snn"
model = { spiking = true }
encoding = { name = "rate", n_steps = 4 }
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT)
    return str(path)


def test_twins_differ_by_what_they_do(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["operations", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ann, snn = (found[name]["forward"]["layers"] for name in ("ann", "snn"))
    assert [layer["name"] for layer in ann] == [layer["name"] for layer in snn]
    assert sum(layer["acs"] for layer in ann) == 0
    assert sum(layer["macs"] for layer in snn) == 0  # rate-coded input is binary, too
    assert sum(layer["dense"] for layer in snn) == 4 * sum(layer["dense"] for layer in ann)


def test_a_script_gets_training_and_every_tables_price(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["operations", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for twin, of in (("ann", "macs"), ("snn", "acs")):
        forward, training = found[twin]["forward"], found[twin]["training"]
        for before, after in zip(forward["layers"], training["layers"], strict=True):
            assert after[of] >= 2 * before[of]
            assert after["dense"] >= 2 * before["dense"] > 0
        tables = operation_tables()
        assert list(training["modelled"]) == list(forward["modelled"]) == [t.title for t in tables]
        for table in tables:
            cheap, dear = (part["modelled"][table.title] for part in (forward, training))
            # Backpropagation multiplies, whatever the forward run does.
            needs_macs = table.multiply_accumulation_pj is None
            assert ("why" in dear) == needs_macs
            assert ("why" in cheap) == (needs_macs and twin == "ann")
            assert needs_macs or dear["energy_j"] > cheap["energy_j"] > 0


def test_people_read_layers_and_prices_marked_as_modelled(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["operations", file]) == 0
    said = capsys.readouterr().out
    assert said.count("MODELLED") >= 4
    assert "conv1" in said
    assert "Loihi 2: no official figure" in said


def test_a_file_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["operations", "none.toml"]) == 2
    assert "none.toml" in capsys.readouterr().err
