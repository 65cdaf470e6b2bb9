"""The command line: help for every command, one line and a documented exit code for bad input."""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from fedcore.command_line import key_value
from fedcore.config import parse_experiment
from fedcore.data.shards import read_auxiliary, read_shard
from fedcore.layout import RunFolder
from fedcore.wire.channel import CertFiles
from testbed import cli
from testbed.commands import cluster, offline
from testbed.provenance import own_version

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *("run", "up", "prepare", "client", "aggregator", "attacker", "data", "certs", "vault"),
    *("attack", "disclose", "judge", "exposure", "report", "runs", "plugins", "doctor", "study"),
    *("meter", "calibrate", "operations", "energy", "deploy"),
)


def call(*arguments: object) -> int:
    """The exit code, however the command hands it over."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse ends the process itself
        return int(stop.code or 0)


def parsers(parser: argparse.ArgumentParser, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command with its sub-commands, as argparse knows them."""
    yield path
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from parsers(below, *path, name)


@pytest.mark.parametrize(
    "path", [*parsers(cli._parser()), ("attacker", "live"), ("attacker", "replay")], ids=" ".join
)
def test_every_command_explains_itself(path: tuple[str, ...], capsys) -> None:
    assert call(*path, "--help") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: leakwatt")
    assert not shown.err


def test_the_version_is_that_of_the_distribution(capsys) -> None:
    assert call("--version") == 0
    shown = capsys.readouterr()
    assert shown.out == f"leakwatt {own_version()}\n"
    assert not shown.err


def test_an_interrupted_experiment_says_how_to_go_on(monkeypatch, capsys) -> None:
    def interrupted(args: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "_run", interrupted)
    monkeypatch.setattr(offline, "_judge", interrupted)
    assert call("run", "my file.toml", "--fresh", "--runs", "r") == 130
    assert capsys.readouterr().err == (
        "leakwatt: interrupted; to go on: leakwatt run 'my file.toml' --runs r\n"
    )
    assert call("judge") == 130
    assert capsys.readouterr().err == "leakwatt: interrupted\n"


def test_help_lists_every_command(capsys) -> None:  # argparse leaves out those without a text
    assert call("--help") == 0
    listed = re.findall(r"^    ([a-z]+)\b", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_the_module_is_a_command_and_loads_no_service_to_say_so() -> None:
    code = (
        "import sys, testbed.cli\ntry: testbed.cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    help_text, _, loaded = done.stdout.partition("LOADED")
    assert help_text.startswith("usage: leakwatt")
    heavy = {"torch", "grpc", "matplotlib", "sklearn", "rich", "jinja2", "scipy"}
    assert not heavy & set(loaded.split())


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one run that was prepared but never started."""
    experiment = parse_experiment({"name": "prepared"}, where="test")
    RunFolder(tmp_path / "runs" / "prepared-1").write_experiment(experiment)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "none.toml"], 2, "no experiment file none.toml .shipped: boards, faces,"),
        (["prepare", "quickstat"], 2, "did you mean .quickstart"),
        (["judge", "prepard", "--runs", "RUNS"], 2, "no run 'prepard' under .*: prepared-1"),
        (["runs", "show", "other", "--runs", "RUNS"], 2, "no run 'other' under .*: prepared-1"),
        (["runs", "show", "--runs", "none"], 2, "no run 'latest' under none .*none yet"),
        (["attack", "other", "--runs", "RUNS"], 2, "no run 'other' under .*: prepared-1"),
        (["judge", "prepared-1", "--runs", "RUNS"], 1, "judge.key: no judge key"),
        (["disclose", "prepared-1", "--runs", "RUNS"], 1, "has the run started"),
        (["runs", "export", "--runs", "RUNS", "--out", "OUT"], 1, "has the run started"),
        (["data", "prepare", "--dataset", "digitz", "--out", "OUT"], 2, "did you mean 'digits'"),
        (
            ["data", "prepare", "--dataset", "digits", "--dataset-option", "x=1", "--out", "OUT"],
            2,
            "dataset 'digits': unknown key 'x'",
        ),
        (
            ["data", "prepare", "--dataset", "digits", "--clients", "0", "--out", "OUT"],
            2,
            "n_clients must lie in",
        ),
        (["certs", "--clients", "0", "--out", "OUT"], 2, "n_clients must lie in"),
        (["certs", "--out", "FILE/below"], 1, "FILE/below: Not a directory"),
        (["vault", "purge", "none"], 1, "none: no such vault"),
        (["client"], 2, "'name' is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_a_code(
    arguments: list[str], code: int, says: str, runs: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    if arguments[0] == "run":
        pytest.importorskip("rich")  # shows the progress
    (tmp_path / "FILE").write_text("")
    monkeypatch.chdir(tmp_path)
    places = {"RUNS": str(runs), "OUT": str(tmp_path / "out")}
    assert call(*(places.get(argument, argument) for argument in arguments)) == code
    shown = capsys.readouterr()
    assert re.search(says, shown.err)
    assert shown.err.startswith("leakwatt")
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_an_interpreter_is_for_a_backend_that_there_is(capsys) -> None:
    assert call("run", "smoke", "--python", f"loihi={sys.executable}") == 2
    shown = capsys.readouterr().err
    assert "argument --python: no backend 'loihi' (known: lava, onnx, torch)" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        [],
        ["runs"],
        ["doctor", "--nonsense"],
        ["plugins", "attak"],
        ["certs"],
        ["data", "prepare", "--dataset", "digits", "--out", "x", "--dataset-option", "no-value"],
        ["attacker", "live", "--nonsense"],
    ],
    ids=" ".join,
)
def test_what_argparse_refuses_is_bad_input_too(arguments: list[str], capsys) -> None:
    assert call(*arguments) == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_a_package_that_is_not_installed_is_named(monkeypatch, capsys) -> None:
    def execute(args: argparse.Namespace) -> None:
        del args
        import no_such_package  # noqa: F401

    parser = argparse.ArgumentParser()
    parser.set_defaults(execute=execute)
    monkeypatch.setattr(cli, "_parser", lambda: parser)
    assert call() == 2
    assert "the package 'no_such_package' is not installed" in capsys.readouterr().err


def test_an_unfinished_run_is_listed_and_shown(runs: Path, capsys) -> None:
    assert call("runs", "list", "--runs", runs, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"run": "prepared-1", "state": "arm main: round 0 of 11"}
    ]
    assert call("runs", "show", "--runs", runs, "--json") == 0
    assert json.loads(capsys.readouterr().out)["latest"] == "not started"
    assert call("runs", "show", runs / "prepared-1") == 0
    assert "main: rounds 0/11" in capsys.readouterr().out


def test_plugins_are_listed_for_people_and_scripts(capsys) -> None:
    assert call("plugins", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert "f32" in found["codec"]
    assert "inverting-gradients" in found["attack"]
    assert call("plugins", "learning-rule") == 0
    assert capsys.readouterr().out.startswith("learning rule\n")
    assert call("plugins", "codec") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in found["codec"])
    assert "inverting-gradients" not in shown


def test_doctor_says_the_same_in_its_text_its_json_and_its_exit_code(capsys) -> None:
    code = call("doctor", "--json")
    findings = json.loads(capsys.readouterr().out)
    measures = any(f["is_usable"] and f["is_measured"] for f in findings)
    assert code == (0 if measures else 1)
    assert call("doctor") == code
    shown = capsys.readouterr().out
    assert all(finding["meter"] in shown for finding in findings)


def test_prepared_shards_are_readable_and_share_no_example(tmp_path: Path, capsys) -> None:
    pytest.importorskip("sklearn")
    arguments = ("--dataset", "digits", "--clients", 3, "--max-examples", 300, "--out", tmp_path)
    partition = ("--partition", "dirichlet", "--partition-option", "alpha=5.0")
    assert call("data", "prepare", *arguments, *partition) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"
    shards = [read_shard(tmp_path / f"client-{i}") for i in range(3)]
    assert shards[0].card.partition.options == {"alpha": 5.0}
    auxiliary, _ = read_auxiliary(tmp_path / "auxiliary.npz")
    parts = [auxiliary, *(p for s in shards for p in (s.inputs, s.eval_inputs))]
    examples = np.concatenate(parts).reshape(300, -1)
    assert len(np.unique(examples, axis=0)) == 300


def test_certificates_carry_the_names_that_a_run_gives_its_clients(tmp_path: Path) -> None:
    assert call("certs", "--out", tmp_path, "--clients", 11) == 0
    run = parse_experiment({"name": "x", "n_clients": 11}, where="test")
    for name in (*run.client_ids, "attacker"):
        credentials = CertFiles.of(tmp_path, name).channel_credentials()
        assert isinstance(credentials, grpc.ChannelCredentials)
    CertFiles.of(tmp_path, "aggregator").server_credentials()
    assert all(key.stat().st_mode & 0o077 == 0 for key in tmp_path.glob("*.key"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", ("a", 1)),
        ("a=1.5", ("a", 1.5)),
        ("a=true", ("a", True)),
        ("a=[8, 8]", ("a", [8, 8])),
        ("a=some text", ("a", "some text")),
        ("a=b=c", ("a", "b=c")),
        ("a=", ("a", "")),
    ],
)
def test_an_option_is_json_or_else_text(text: str, expected: tuple[str, object]) -> None:
    assert key_value(text) == expected
