"""A client's settings: options over file over defaults, and one line for what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from edge_client.cli import main
from edge_client.config import ClientConfig, read_config
from fedcore.errors import ConfigError
from fedcore.plan import Choice

FOLDERS = ["--certs", "c", "--shard", "s", "--secret", "x", "--judge-key", "j", "--vault", "v"]
OPTIONS = ["--aggregator", "aggregator:50051", "--name", "client-0", *FOLDERS]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_options_alone_are_enough() -> None:
    assert read_config(OPTIONS) == ClientConfig(
        aggregator="aggregator:50051",
        name="client-0",
        certs="c",
        shard="s",
        secret="x",  # noqa: S106  # a path
        judge_key="j",
        vault="v",
    )


def test_an_option_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = write(
        tmp_path / "client.toml",
        'name = "client-7"\nthreads = 3\nshared_by = 2\n'
        'meter = { name = "csv", options = { path = "a.csv", rate = 2 } }\n',
    )
    config = read_config(
        [*OPTIONS, "--config", str(file), "--threads", "4", "--meter-option", "rate=5"]
    )
    assert (config.name, config.threads, config.shared_by) == ("client-0", 4, 2)
    assert config.meter == Choice(name="csv", options={"path": "a.csv", "rate": 5})


def test_paths_in_a_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    file = write(
        tmp_path / "client.toml",
        'name = "client-0"\naddress_file = "address"\ncerts = "."\nshard = "."\n'
        'secret = "secret"\njudge_key = "judge.pub"\nvault = "/vault"\n',
    )
    config = read_config(["--config", str(file), "--log", "here.log"])
    assert Path(config.address_file) == tmp_path / "address"
    assert Path(config.certs) == Path(config.shard) == tmp_path
    assert (config.vault, config.log, config.pulse) == ("/vault", "here.log", "")


def test_an_address_on_the_command_line_replaces_the_files_either_way(tmp_path: Path) -> None:
    file = write(tmp_path / "client.toml", 'address_file = "address"\n')
    config = read_config([*OPTIONS, "--config", str(file)])
    assert (config.aggregator, config.address_file) == ("aggregator:50051", "")


def test_another_meter_drops_the_options_of_the_first(tmp_path: Path) -> None:
    file = write(tmp_path / "client.toml", 'meter = { name = "csv", options = { path = "a" } }\n')
    config = read_config([*OPTIONS, "--config", str(file), "--meter", "null"])
    assert config.meter == Choice(name="null")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (OPTIONS[2:], "aggregator"),
        ([*OPTIONS, "--address-file", "a"], "address_file"),
        ([*OPTIONS, "--aggregator", "nowhere"], "HOST:PORT"),
        ([*OPTIONS, "--name", "Client 0"], "client name"),
        ([*OPTIONS, "--threads", "-1"], "threads"),
        ([*OPTIONS, "--period-s", "0"], "period_s"),
        ([*OPTIONS, "--shared-by", "0"], "shared_by"),
        ([*OPTIONS, "--meter-option", "rate"], "KEY=VALUE"),
        ([*OPTIONS, "--config", "/nowhere/client.toml"], "cannot be read"),
        (OPTIONS[:-2], "vault"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(arguments)


def test_a_misspelt_key_gets_the_nearest_name(tmp_path: Path) -> None:
    file = write(tmp_path / "client.toml", "thread = 2\n")
    with pytest.raises(ConfigError, match=r"client\.toml: unknown key 'thread'.*'threads'"):
        read_config([*OPTIONS, "--config", str(file)])


def test_bad_configuration_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OPTIONS, "--threads", "-1"]) == 2
    assert capsys.readouterr().err == (
        "leakwatt-client: command line: threads must be >= 0; got -1\n"
    )


def test_help_needs_no_grpc_and_nothing_heavy() -> None:
    code = (
        "import sys\nfrom edge_client.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'grpc', 'torch', 'matplotlib', 'sklearn', 'torchvision'}"
        " & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--address-file" in done.stdout
