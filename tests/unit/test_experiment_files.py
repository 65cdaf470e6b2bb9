"""What is wrong in an experiment file is told before anything starts: one line, file and key."""

from pathlib import Path
from typing import Any

import pytest

from fedcore.config import Experiment, load_experiment, parse_experiment
from fedcore.errors import ConfigError

pytest.importorskip("torch")  # models and attacks are built to be checked

from testbed import cli
from testbed.experiment import check, load_checked
from testbed.oddities import oddities, tell_notes

pytestmark = pytest.mark.torch

SHIPPED = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))
WHERE = "mine.toml"


def refusal(table: dict[str, Any]) -> str:
    """The one line about a table that must be refused."""
    with pytest.raises(ConfigError) as caught:
        check(parse_experiment({"name": "mine", **table}, where=WHERE), where=WHERE)
    line = str(caught.value)
    assert line.startswith(f"{WHERE}: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_resolves_and_checks(path: Path) -> None:
    experiment = load_experiment(path)
    check(experiment, where=path.name)
    assert isinstance(experiment, Experiment)
    assert len({experiment.run_id(arm) for arm in experiment.arms}) == len(experiment.arms)
    assert not oddities(experiment)


@pytest.mark.parametrize(
    ("table", "key", "meant"),
    [
        ({"data": {"dataset": {"name": "digit"}}}, "data.dataset", "digits"),
        ({"data": {"partition": {"name": "dirichle"}}}, "data.partition", "dirichlet"),
        ({"hardware": {"meter": {"name": "rappl"}}}, "hardware.meter", "rapl"),
        (
            {"hardware": {"energy_model": "raspberry-pi-6"}},
            "hardware.energy_model",
            "raspberry-pi-5",
        ),
        ({"model": {"name": "lennet"}}, "model.name", "lenet"),
        ({"model": {"spiking": True, "neuron": {"name": "liff"}}}, "model.neuron.name", "lif"),
        ({"encoding": {"name": "ratte"}}, "encoding", "rate"),
        ({"training": {"rule": "backpropp"}}, "training.rule", "backprop"),
        ({"defences": [{"name": "clip"}, {"name": "tpok"}]}, "defences[1]", "topk"),
        ({"codec": {"name": "int"}}, "codec", "int8"),
        ({"strategy": {"name": "fedadm"}}, "strategy", "fedadam"),
        ({"attack": {"name": "inverting-gradient"}}, "attack", "inverting-gradients"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unknown_plugin_of_each_kind(table: dict, key: str, meant: str) -> None:
    line = refusal(table)
    assert line.startswith(f"{WHERE}: {key}: no ")
    assert f"did you mean '{meant}'?" in line


@pytest.mark.parametrize(
    ("table", "key", "meant"),
    [
        (
            {"data": {"dataset": {"name": "nmnist", "options": {"n_bin": 3}}}},
            "data.dataset",
            "n_bins",
        ),
        (
            {"data": {"partition": {"name": "dirichlet", "options": {"alfa": 1.0}}}},
            "data.partition",
            "alpha",
        ),
        (
            {"hardware": {"meter": {"name": "rapl", "options": {"domian": "psys"}}}},
            "hardware.meter",
            "domain",
        ),
        ({"model": {"name": "mlp", "options": {"hiden": [8]}}}, "model", "hidden"),
        ({"encoding": {"name": "rate", "options": {"max_rat": 1.0}}}, "encoding", "max_rate"),
        (
            {"defences": [{"name": "clip", "options": {"max_nrm": 1.0}}]},
            "defences[0]",
            "max_norm",
        ),
        ({"codec": {"name": "sparse", "options": {"fractoin": 0.1}}}, "codec", "fraction"),
        ({"strategy": {"name": "fedadam", "options": {"beta3": 0.1}}}, "strategy", "beta"),
        (
            {"attack": {"name": "dlg", "options": {"memry": 3}}},
            "attack",
            "memory",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unknown_option_of_a_plugin(table: dict, key: str, meant: str) -> None:
    line = refusal(table)
    assert line.startswith(f"{WHERE}: {key}: ")
    assert "unknown key" in line
    assert f"did you mean '{meant}" in line


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"trainning": {}}, "unknown key 'trainning'; did you mean 'training'?"),
        ({"model": {"neuron": {"decai": 1}}}, "neuron: unknown key 'decai'; did you mean 'decay'?"),
        ({"threat": {"label": True}}, "threat: unknown key 'label'; did you mean 'labels'?"),
        ({"n_clients": "4"}, "n_clients: got str '4', expected int"),
        ({"schedule": {"wait_for_all": 1}}, "schedule: wait_for_all: got int 1, expected bool"),
        ({"attack": {"victim_rounds": [0, "1"]}}, "victim_rounds[1]: got str '1', expected int"),
        ({"model": {"readout": "per-step"}}, "readout: got 'per-step', expected one of"),
        ({"attack": {"when": "later"}}, "when: got 'later', expected one of after, live"),
        ({"training": {"learning_rate": float("nan")}}, "got nan, expected a finite number"),
        ({"data": {"eval_fraction": 0.5}}, "eval_fraction must lie in (0, 0.5); got 0.5"),
        ({"training": {"local_steps": 2}}, "local_steps must be 1 when update is 'gradient'"),
        (
            {"codec": {"name": "sparse", "options": {"fraction": 1.5}}},
            "codec: codec 'sparse': fraction must lie in (0, 1]; got 1.5",
        ),
        (
            {"encoding": {"name": "rate", "options": {"max_rate": "high"}}},
            "encoding: encoding 'rate': max_rate: got str 'high', expected float",
        ),
        (
            {"attack": {"options": {"labels": "joint"}}},
            "attack 'inverting-gradients': labels 'joint' is for dlg",
        ),
        ({"model": {"input_shape": [64]}}, "model: model 'lenet' takes images"),
        ({"model": {"name": "vgg-small", "input_shape": [1, 4, 4]}}, "is too small for model"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_wrong_key_type_or_value(table: dict, says: str) -> None:
    assert says in refusal(table)


def test_an_attack_is_not_started_without_what_it_requires() -> None:
    attack = {"name": "idlg", "options": {"labels": "granted"}}
    line = refusal({"attack": attack})
    assert line == (
        "mine.toml: attack: 'idlg' with these options requires labels, which the threat model does "
        "not grant; set threat.labels = true or change the options"
    )
    granted = {"name": "mine", "attack": attack, "threat": {"labels": True}}
    check(parse_experiment(granted, where=WHERE), where=WHERE)


def test_dp_sgd_divides_by_the_batch_that_is_trained_on() -> None:
    options = {"max_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 16}
    table = {"defences": [{"name": "dp-sgd", "options": options}]}
    assert "its batch_size, 16, but training.batch_size is 8" in refusal(table)
    equal = {"name": "mine", "training": {"batch_size": 16}, **table}
    check(parse_experiment(equal, where=WHERE), where=WHERE)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"schedule": {"quorum": 3}}, "set schedule.quorum = 4, got 3"),
        ({"schedule": {"quorum": 4}, "codec": {"name": "int8"}}, "needs codec 'f32'"),
        ({"schedule": {"quorum": 17}, "n_clients": 17}, "sums at most 16 clients"),
    ],
)
def test_masks_that_would_not_cancel_are_refused(table: dict[str, Any], words: str) -> None:
    assert words in refusal({"defences": [{"name": "secure-aggregation"}], **table})


def test_a_step_order_needs_something_that_has_one() -> None:
    assert "grant labels or encoded_input, too" in refusal({"threat": {"step_order": True}})


def test_with_several_arms_the_arm_is_named() -> None:
    arms = [{"name": "good"}, {"name": "odd", "codec": {"name": "int"}}]
    assert refusal({"arms": arms}).startswith("mine.toml: arm 'odd': codec: no codec 'int'")
    arms[1] = {"name": "odd", "attack": {"options": {"labels": "granted"}}}
    assert refusal({"arms": arms}).startswith("mine.toml: arm 'odd': attack: 'inverting-gradients'")


def test_a_fault_that_all_arms_share_is_told_without_an_arm() -> None:
    arms = [{"name": "one"}, {"name": "two"}]
    line = refusal({"training": {"batch_sise": 1}, "arms": arms})
    assert line == "mine.toml: training: unknown key 'batch_sise'; did you mean 'batch_size'?"


def test_a_fault_inside_one_arm_says_which() -> None:
    arms = [{"name": "one"}, {"name": "two", "training": {"batch_sise": 1}}]
    assert refusal({"arms": arms}).startswith("mine.toml: arms[1]: training: unknown key")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("strategy = { name = 'fedadam', options = { tau = inf } }", "expected a finite number"),
        (
            "codec = { name = 'sparse', options = { fraction = 1979-05-27 } }",
            "codec 'sparse': fraction",
        ),
        ("training = { batch_size = 5000 }", "training.batch_size is 5000, but no client has more"),
        (
            "encoding = { name = 'delta', n_steps = 8 }",
            "arm 'main': encoding: encoding 'delta': the inputs have 1 steps along axis 1",
        ),
        ("model = { input_shape = [1, 9, 9] }", "do not fit the encoded data's [1, 8, 8] and 10"),
        ("data = { partition = { name = 'by-subject' } }", "data: partition 'by-subject' needs"),
        ("data = { max_examples = 3 }", "data: 2 examples left 2 of 4 clients without data"),
        ("n_clients = 999", "data: a client got 1 example"),
        ("data = { dataset = { name = 'mnist' }, root = 'none' }", "data: data set 'mnist': none"),
    ],
)
def test_what_only_the_command_meets_names_the_file_too(
    text: str, says: str, tmp_path: Path, capsys
) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / WHERE).write_text(f'name = "mine"\n{text}\n')
    folders = ("--runs", str(tmp_path / "runs"), "--private", str(tmp_path / "private"))
    assert cli.main(["prepare", str(tmp_path / WHERE), *folders]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"leakwatt: {WHERE}: ")
    assert says in line
    assert line.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("strategy", "training", "note"),
    [
        ('name = "fedavg"', 'update = "gradient"', "take 'fedsgd'"),
        ('name = "fedavg"\noptions = { learning_rate = 1.0 }', 'update = "gradient"', ""),
        ('name = "fedavg"', 'update = "delta"', ""),
        ('name = "fedsgd"', 'update = "gradient"', ""),
        ('name = "fedsgd"', 'update = "delta"', "take 'fedavg'"),
        ('name = "fedprox"', 'update = "delta"\nlocal_steps = 2', "is 'fedavg'"),
        ('name = "fedprox"', 'update = "delta"\nproximal_mu = 0.1', "second local step"),
    ],
)
def test_an_odd_pair_is_told_and_not_refused(
    strategy: str, training: str, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / WHERE
    path.write_text(f'name = "mine"\n[strategy]\n{strategy}\n[training]\n{training}\n')
    tell_notes(load_checked(path), where=WHERE)
    said = capsys.readouterr().err
    assert note in said
    assert said.count("\n") == bool(note)
