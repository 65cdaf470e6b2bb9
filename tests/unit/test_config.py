"""An experiment file resolves once; whatever is wrong in it is named with file and key."""

from pathlib import Path

import pytest

from fedcore.config import load_experiment, parse_experiment
from fedcore.errors import ConfigError
from fedcore.strict import to_table

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_arms_differ_in_exactly_what_they_say(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "twins.toml",
        """
        name = "twins"
        training = { batch_size = 3 }
        [[arms]]
        name = "ann"
        [[arms]]
        name = "snn"
        model = { spiking = true }
        """,
    )
    ann, snn = load_experiment(path).arms
    difference = {k for k, v in to_table(ann).items() if to_table(snn)[k] != v}
    assert difference == {"name", "model"}
    assert ann.training.batch_size == snn.training.batch_size == 3


def test_a_file_is_a_delta_over_its_base(tmp_path: Path) -> None:
    write(tmp_path, "base.toml", 'name = "base"\n[training]\nbatch_size = 3\nlearning_rate = 0.2\n')
    path = write(
        tmp_path, "mine.toml", 'base = "base.toml"\nname = "mine"\n[training]\nbatch_size = 5\n'
    )
    experiment = load_experiment(path)
    assert experiment.name == "mine"
    assert experiment.arms[0].training.batch_size == 5
    assert experiment.arms[0].training.learning_rate == 0.2


def test_another_plugin_does_not_inherit_the_options_of_the_first(tmp_path: Path) -> None:
    write(
        tmp_path,
        "base.toml",
        'name = "base"\n[strategy]\nname = "fedadam"\noptions = { learning_rate = 1.0 }\n',
    )
    path = write(tmp_path, "mine.toml", 'base = "base.toml"\n[strategy]\nname = "median"\n')
    assert load_experiment(path).arms[0].strategy.options == {}


@pytest.mark.parametrize("base", ["nowhere.toml", "."])
def test_a_base_that_is_not_there_is_named_with_its_key(tmp_path: Path, base: str) -> None:
    path = write(tmp_path, "mine.toml", f'base = "{base}"\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: base: there is no file"):
        load_experiment(path)


def test_bases_in_a_circle_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", 'base = "b.toml"\nname = "a"\n')
    path = write(tmp_path, "b.toml", 'base = "a.toml"\nname = "b"\n')
    with pytest.raises(ConfigError, match="circle"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "x"\n[modle]\n', "bad.toml: unknown key 'modle'; did you mean 'model'?"),
        (
            'name = "x"\n[training]\nbatch_sise = 1\n',
            "bad.toml: training: unknown key 'batch_sise'; did you mean 'batch_size'?",
        ),
        (
            'name = "x"\n[training]\nbatch_size = "8"\n',
            "bad.toml: training: batch_size: got str '8', expected int",
        ),
        (
            'name = "x"\n[training]\nbatch_size = 0\n',
            "bad.toml: training: batch_size must be >= 1; got 0",
        ),
        (
            'name = "x"\n[schedule]\nquorum = 9\n',
            "bad.toml: arm 'main': schedule.quorum is 9, but 4 clients take part",
        ),
        (
            'name = "x"\n[attack]\nvictim_rounds = [10]\n',
            "victim_rounds names round 10, but schedule.rounds is 10",
        ),
        (
            'name = "x"\n[attack]\nvictim_rounds = [-1]\n',
            "bad.toml: attack: victim_rounds must be rounds from 0 on",
        ),
        (
            f'name = "x"\n[training]\nlearning_rate = {10**400}\n',
            "bad.toml: training: learning_rate: got a whole number of 1329 bits, expected 63",
        ),
        (
            f'name = "x"\n[model]\nname = "mlp"\nn_classes = {2**63}\n',
            "bad.toml: model: n_classes: got a whole number of 64 bits, expected 63 at most",
        ),
        (
            f'name = "x"\n[model]\nactivation = 0x{"f" * 5000}\n',
            "bad.toml: model: activation: got a whole number of 20000 bits, expected 63 at most",
        ),
        (f'name = "x"\nseed = {"9" * 5000}\n', "bad.toml: not TOML"),
        (f"name = {'[' * 5000}\n", "bad.toml: not TOML"),
        (
            'name = "x"\n[encoding]\nn_steps = 100000000000000\n',
            "bad.toml: encoding: n_steps must lie in [1, 100000]; got 100000000000000",
        ),
        ('name = "X"\n', "bad.toml: name 'X' must match"),
        ("name = \n", "bad.toml: not TOML"),
        (
            'name = "x"\n[[devices]]\nname="pi"\nclients=["client-4"]\n',
            "bad.toml: device 'pi': there is no client 'client-4'; n_clients is 4",
        ),
        (
            'name = "x"\nclients=["client-9"]\n',
            "bad.toml: arm 'main': there is no client 'client-9'",
        ),
        (
            'name = "x"\nclients=["client-1"]\n',
            "bad.toml: arm 'main': schedule.quorum is 2, but 1 clients take part",
        ),
        (
            'name = "x"\ndevices=[{name="a",clients=["client-1"]},'
            '{name="b",clients=["client-1"]}]\n',
            "bad.toml: device 'b': client-1 runs on another device already",
        ),
        (
            'name = "x"\ndevices=[{name="a",clients=["client-1"],link={loss=1.0}}]\n',
            "loss must lie in [0, 1); got 1.0",
        ),
        (
            'name = "x"\n[[arms]]\nname="a"\n[[arms]]\nname="a"\n',
            "bad.toml: arms need names of their own",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, "bad.toml", text))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_resolved_experiment_parses_back_to_itself() -> None:
    experiment = load_experiment(EXPERIMENTS / "quickstart.toml")
    assert parse_experiment(to_table(experiment), where="again") == experiment


def test_the_digest_names_every_setting() -> None:
    one = parse_experiment({"name": "x"}, where="a")
    other = parse_experiment({"name": "x", "seed": 1}, where="b")
    assert one.digest != other.digest
    assert one.digest == parse_experiment({"name": "x", "seed": 0}, where="c").digest


def test_run_ids_fit_their_pattern_however_long_the_names() -> None:
    experiment = parse_experiment({"name": "n" * 24, "arms": [{"name": "a" * 24}]}, where="x")
    assert len(experiment.run_id(experiment.arms[0])) <= 63


def test_a_base_under_another_spelling_of_its_path_is_still_a_circle(tmp_path: Path) -> None:
    path = write(tmp_path, "a.toml", f'base = "../{tmp_path.name}/a.toml"\nname = "a"\n')
    with pytest.raises(ConfigError, match="circle"):
        load_experiment(path)
