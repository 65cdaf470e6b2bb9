"""`leakwatt attack UPDATE --model`: a saved update of a person's own model, as a command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from testbed.cli import main  # noqa: E402

pytestmark = pytest.mark.torch

MODULE = """
import torch
from torch import nn

answer = 42

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def fail():
    raise OSError("no disk")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One update of one digit, the module, and the truth."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    (tmp_path / "mine.py").write_text(MODULE)
    found: dict = {}
    exec(MODULE, found)  # noqa: S102  # this very file's own text
    net = found["make"]()
    torch.nn.functional.cross_entropy(net(images[:1]), labels[:1]).backward()
    update = {name: p.grad for name, p in net.named_parameters()}
    safetensors.torch.save_file(update, tmp_path / "update.safetensors")
    np.savez(
        tmp_path / "truth.npz",
        inputs=images[:1],
        labels=labels[:1],
        others=images[100:200],
        other_labels=labels[100:200],
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODEL = ("--model", "mine.py:make", "--input-shape", "1,8,8")


def test_an_update_becomes_candidates_a_picture_and_scores(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["attack", "update.safetensors", *MODEL, "--attack", "first-layer"]
    assert main([*command, "--truth", "truth.npz", "--out", "found"]) == 0
    said = capsys.readouterr().out
    assert "first-layer: 1 example, 1 restart" in said
    assert "mean image" in said
    with np.load(folder / "found" / "candidates.npz") as arrays:
        assert arrays["candidates"].shape == (1, 1, 1, 8, 8)
    assert (folder / "found" / "candidates.png").read_bytes().startswith(b"\x89PNG")
    assert main([*command, "--truth", "truth.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((folder / "audit" / "answer.json").read_text()) | {
        "duration_s": found["duration_s"]
    }
    assert found["labels"] == [0]
    psnr = found["scores"]["psnr"]
    assert psnr["chosen"] > 60 > 20 > psnr["mean-image"] > psnr["noise"]


def test_options_reach_the_attack(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["attack", "update.safetensors", *MODEL, "--attack", "peeling", "--restarts", "2"]
    options = ("--iterations", "30", "--seed", "3", "--labels", "7", "--option", "labels=granted")
    assert main([*command, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["losses"]) == 2
    assert found["labels"] == [7]
    assert found["knowledge"] == ["labels"]
    assert "scores" not in found


def test_a_tapped_update_says_itself_what_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {n: torch.zeros(s) for n, s in (("1.weight", (10, 64)), ("1.bias", (10,)))}
    slopes = safetensors.torch.load_file(folder / "update.safetensors")
    safetensors.torch.save_file(old, folder / "global.safetensors")
    new = {name: old[name] - 0.1 * slopes[name] for name in old}
    safetensors.torch.save_file(new, folder / "node.safetensors")
    note = {"kind": "weights", "n_examples": 1, "weights": "global.safetensors"}
    (folder / "node.json").write_text(json.dumps(note))
    command = ["attack", "node.safetensors", *MODEL, "--attack", "first-layer", "--json"]
    assert main([*command, "--truth", "truth.npz"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["psnr"]["chosen"] > 50


def test_a_leakwatt_model_is_described_in_toml(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.toml").write_text(
        '[model]\nname = "mlp"\ninput_shape = [1, 8, 8]\noptions = { hidden = [] }\n'
    )
    weights = {"readout.weight": torch.zeros(10, 64), "readout.bias": torch.zeros(10)}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    slopes = safetensors.torch.load_file(folder / "update.safetensors")
    ours = {name.replace("1.", "readout."): tensor for name, tensor in slopes.items()}
    safetensors.torch.save_file(ours, folder / "ours.safetensors")
    command = ["attack", "ours.safetensors", "--model", "model.toml", "--attack", "first-layer"]
    assert main([*command, "--weights", "weights.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == [0]
    assert main(command) == 2
    assert "--weights: a model of model.toml has none of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "rc", "why"),
    [
        (("update.safetensors",), 2, "say --model FILE.py:NAME, too"),
        (("--kind", "delta"), 2, "--kind is for an update of your own model"),
        (("--eval",), 2, "--eval is for an update of your own model"),
        (("update.safetensors", "--model", "mine.py:mak"), 2, "--input-shape"),
        (("update.safetensors", *MODEL, "--model", "mine.py:mak"), 2, "did you mean 'make'"),
        (("update.safetensors", *MODEL, "--model", "mine.py:answer"), 2, "gives int"),
        (("update.safetensors", *MODEL, "--model", "mine.py:fail"), 2, "OSError: no disk"),
        (("update.safetensors", *MODEL, "--model", "no.py:make"), 2, "there is no file no.py"),
        (("update.safetensors", *MODEL, "--model", "mine.py"), 2, "expected FILE.py:NAME"),
        (("none.safetensors", *MODEL), 2, "cannot be read"),
        (("update.safetensors", *MODEL, "--option", "x"), 2, "--option: 'x' is not KEY=VALUE"),
        (("update.safetensors", *MODEL, "--truth", "no.npz"), 2, "no.npz: cannot be read"),
        (("update.safetensors", *MODEL, "--labels", "1,2"), 2, "correct the number of examples"),
        (("update.safetensors", *MODEL, "--device", "cuda:70"), 2, "got 'cuda:70', expected"),
        (("update.safetensors", *MODEL, "--attack", "relaxed-matching"), 1, "does not spike"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: tuple[str, ...],
    rc: int,
    why: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["attack", *arguments]) == rc
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1


def test_a_truth_must_be_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = np.ones((1, 1, 8, 8)), np.zeros((2, 1, 8, 8))
    good = {"inputs": one, "labels": [0], "others": two, "other_labels": [0, 1]}
    for change, why in (
        ({"inputs": 255 * one}, "inputs lie in [255, 255]; expected [0, 1]"),
        ({"inputs": np.nan * one}, "inputs lie in [nan, nan]; expected [0, 1]"),
        ({"inputs": one.reshape(1, 64), "others": np.zeros((2, 64))}, "the model takes (1, 8, 8)"),
        ({"labels": [0, 1]}, "with 2 labels"),
        ({"labels": [[0]]}, "one whole number for each"),
        ({"labels": [0.5]}, "one whole number for each"),
        ({"labels": ["a"]}, "one whole number for each"),
        ({"labels": [-3]}, "expected classes from 0 on"),
        ({"others": np.zeros((2, 3, 8, 8))}, "inputs of shape (1, 8, 8), others of (3, 8, 8)"),
        ({"extra": [0]}, "expected inputs, labels, others and other_labels"),
        ({"others": np.ones((2, 1, 8, 8))}, "also among the others"),
    ):
        np.savez(folder / "bad.npz", **{**good, **change})
        command = ["attack", "update.safetensors", *MODEL, "--attack", "first-layer"]
        assert main([*command, "--truth", "bad.npz"]) in (1, 2)
        said = capsys.readouterr().err
        assert why in said
        assert said.count("\n") == 1
