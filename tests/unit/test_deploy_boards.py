"""The boards file: its faults in one line each, and the inventory that is made of it."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from edge_client.config import read_config
from fedcore.config import Experiment, parse_experiment
from fedcore.errors import ConfigError, RunError
from fedcore.layout import PrivateFolder, RunFolder
from hardware.registry import METERS
from testbed import cli
from testbed.deploy.boards import Boards, check_boards, load_boards
from testbed.deploy.inventory import inventory, unit_line
from testbed.deploy.package import package_for
from testbed.deploy.permissions import NEEDS
from testbed.deploy.playbooks import faults, folder
from testbed.deploy.records import store

BOARD = {"client": "client-0", "host": "pi4.lan", "user": "pi"}
FILES = ("client.toml", "secret", "judge.pub", "ca.crt", "shard.npz", "card.json")


def written(path: Path, *boards: dict[str, Any], **top: Any) -> Path:
    """A boards file; its values are JSON, which TOML reads for what is used here."""
    top = {"run": "latest", "aggregator": "10.0.0.1:7443", **top}
    lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
    for board in boards or (BOARD,):
        lines += ["[[boards]]", *(f"{key} = {json.dumps(value)}" for key, value in board.items())]
    file = path / "boards.toml"
    file.write_text("\n".join(lines))
    return file


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Experiment, PrivateFolder]:
    """What `leakwatt prepare` leaves of two clients, one of them on ONNX."""
    devices = [{"name": "pi4", "clients": ["client-1"], "backend": "onnx"}]
    table = {"name": "lab", "n_clients": 2, "devices": devices}
    private = PrivateFolder(tmp_path / "private" / "lab")
    for client_id in ("client-0", "client-1"):
        private.service(client_id).mkdir(parents=True)
        for name in (*FILES, f"{client_id}.crt", f"{client_id}.key"):
            (private.service(client_id) / name).write_text(name)
        (private.service(client_id) / "cache").mkdir()  # left there by a local cluster
    return parse_experiment(table, where="test"), private


@pytest.mark.parametrize(
    ("board", "says"),
    [
        ({"hots": "x"}, "boards.0.: unknown key 'hots'; did you mean 'host'"),
        ({"client": "../x"}, "client '../x' must match"),
        ({"host": "-oProxyCommand=x"}, "host must be a name or an address; got '-oProxy"),
        ({"host": "a b"}, "host must be a name or an address"),
        ({"user": "-l"}, "user must be a user's name"),
        ({"port": 0}, "port must lie in"),
        ({"port": "22"}, "port: got str '22', expected int"),
        ({"extra": "edge-onx"}, "expected one of .*; did you mean 'edge-onnx'"),
        ({"extra": "edge-onnx", "torch": "x.whl"}, "torch is for extra edge-torch"),
    ],
    ids=str,
)
def test_a_wrong_board_is_one_line(board: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_boards(written(tmp_path, {**BOARD, **board}))
    assert str(caught.value).startswith("boards.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("top", "says"),
    [
        ({"aggregator": "10.0.0.1"}, "aggregator must be HOST:PORT"),
        ({"aggregator": "localhost:7443"}, "which a board takes for itself"),
        ({"agregator": "x"}, "did you mean 'aggregator'"),
    ],
    ids=str,
)
def test_a_wrong_file_is_one_line(top: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        load_boards(written(tmp_path, **top))


@pytest.mark.parametrize("same", ["client", "host"])
def test_a_board_runs_one_client_and_a_client_on_one_board(same: str, tmp_path: Path) -> None:
    other = {**BOARD, "client": "client-1", "host": "pi5.lan", same: BOARD[same]}
    with pytest.raises(ConfigError, match=f"{same} '.*' is named twice"):
        load_boards(written(tmp_path, BOARD, other))
    other = {**BOARD, "client": "client-1", "port": 2222}  # behind one address
    assert len(load_boards(written(tmp_path, BOARD, other)).boards) == 2


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    file = written(tmp_path, {**BOARD, "key": "~/.ssh/k", "known_hosts": "h"}, leakwatt="w/a.whl")
    boards = load_boards(file)
    assert boards.boards[0].key == "/home/me/.ssh/k"
    assert boards.boards[0].known_hosts == str(tmp_path / "h")
    assert boards.leakwatt == str(tmp_path / "w" / "a.whl")


@pytest.mark.parametrize(
    ("board", "says"),
    [
        ({"client": "client-2"}, "has no client 'client-2'; did you mean"),
        ({"extra": "edge-onnx"}, r"has backend 'onnx', but .* put client-0 on 'torch'"),
        ({"client": "client-1"}, r"has backend 'torch', but .* put client-1 on 'onnx'"),
        ({"key": "none"}, "key: there is no file"),
        ({"meter": {"name": "rapll"}}, "meter: .*did you mean 'rapl'"),
        ({"meter": {"name": "rapl", "options": {"domian": "psys"}}}, "did you mean 'domain'"),
    ],
    ids=str,
)
def test_a_board_that_does_not_suit_the_run_is_refused(
    board: dict[str, Any], says: str, prepared: tuple[Experiment, PrivateFolder], tmp_path: Path
) -> None:
    boards = load_boards(tomls(tmp_path, board))
    with pytest.raises(ConfigError, match=says) as caught:
        check_boards(boards, *prepared, where="boards.toml")
    assert "\n" not in str(caught.value)


def test_a_run_that_was_not_prepared_here_is_refused(
    prepared: tuple[Experiment, PrivateFolder], tmp_path: Path
) -> None:
    experiment, private = prepared
    (private.service("client-0") / "shard.npz").unlink()
    with pytest.raises(ConfigError, match=r"shard.npz missing; run `leakwatt prepare`"):
        check_boards(load_boards(written(tmp_path)), experiment, private, where="boards.toml")


def test_a_board_gets_its_own_files_and_nobody_elses(
    prepared: tuple[Experiment, PrivateFolder], tmp_path: Path
) -> None:
    hosts = hosts_of(load_boards(written(tmp_path)), *prepared)
    assert list(hosts) == ["client-0"]
    files = [Path(file) for file in hosts["client-0"]["leakwatt_files"]]
    assert {file.name for file in files} == {*FILES, "client-0.crt", "client-0.key"}
    assert {file.parent.name for file in files} == {"client-0"}
    (prepared[1].service("client-0") / "peers").touch()
    assert (
        len(hosts_of(load_boards(written(tmp_path)), *prepared)["client-0"]["leakwatt_files"]) == 9
    )


def test_the_connection_is_what_the_file_says(
    prepared: tuple[Experiment, PrivateFolder], tmp_path: Path
) -> None:
    (tmp_path / "k").touch()
    board = {
        **BOARD,
        "port": 2222,
        "key": "k",
        "known_hosts": "a b",
        "python": "/opt/py/bin/python",
    }
    host = hosts_of(load_boards(written(tmp_path, board)), *prepared)["client-0"]
    assert (host["ansible_host"], host["ansible_port"]) == ("pi4.lan", 2222)
    assert host["ansible_user"] == "pi"
    assert host["ansible_python_interpreter"] == "/opt/py/bin/python"
    assert host["ansible_ssh_private_key_file"] == str(tmp_path / "k")
    assert f"'UserKnownHostsFile={tmp_path}/a b'" in host["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in host["ansible_ssh_common_args"]


def test_a_meter_gets_its_extra_its_group_and_its_options(
    prepared: tuple[Experiment, PrivateFolder], tmp_path: Path
) -> None:
    options = {"port": "/dev/rfcomm0"}
    board = {"name": "usb-meter", "options": options}
    host = hosts_of(load_boards(tomls(tmp_path, {"meter": board})), *prepared)["client-0"]
    assert host["leakwatt_requirement"] == "leakwatt[edge-torch,serial]==1.2"
    assert host["leakwatt_groups"] == ["dialout"]
    words = unquoted(host["leakwatt_command"])
    (tmp_path / "client.toml").write_text(
        'name = "client-0"\ncerts = "."\nshard = "."\nsecret = "secret"\njudge_key = "judge.pub"\n'
    )
    words[words.index("--config") + 1] = str(tmp_path / "client.toml")
    config = read_config(words[1:])  # the service's command is one that the client takes
    assert (config.meter.name, config.meter.options) == ("usb-meter", options)
    assert config.aggregator == "10.0.0.1:7443"


def test_a_torch_of_ones_own_replaces_the_extra_that_asks_for_a_newer_one(
    prepared: tuple[Experiment, PrivateFolder], tmp_path: Path
) -> None:
    for meter, requirement in (("null", "leakwatt[]==1.2"), ("nvml", "leakwatt[nvml]==1.2")):
        board = {"torch": "/opt/torch.whl", "meter": {"name": meter}}
        host = hosts_of(load_boards(tomls(tmp_path, board)), *prepared)["client-0"]
        assert host["leakwatt_requirement"] == requirement
        assert host["leakwatt_torch"] == "/opt/torch.whl"


def test_an_accelerator_gets_the_groups_of_its_devices(
    prepared: tuple[Experiment, PrivateFolder], tmp_path: Path
) -> None:
    orin = {"name": "orin", "clients": ["client-0"], "accelerator": "cuda"}
    with_cuda = parse_experiment({"name": "lab", "n_clients": 2, "devices": [orin]}, where="test")
    file = tomls(tmp_path, {"meter": {"name": "null"}})
    for experiment, groups in ((prepared[0], []), (with_cuda, ["video", "render"])):
        host = hosts_of(load_boards(file), experiment, prepared[1])["client-0"]
        assert host["leakwatt_groups"] == groups


def test_several_meters_get_what_each_needs(
    prepared: tuple[Experiment, PrivateFolder], tmp_path: Path
) -> None:
    file = tmp_path / "boards.toml"
    file.write_text(
        'run = "latest"\naggregator = "10.0.0.1:7443"\n[[boards]]\nclient = "client-0"\n'
        'host = "h"\nuser = "u"\nmeter = { name = "combined", options = { meters = '
        '[{ name = "rapl" }, { name = "nvml" }] } }\n'
    )
    host = hosts_of(load_boards(file), *prepared)["client-0"]
    assert host["leakwatt_requirement"] == "leakwatt[edge-torch,nvml]==1.2"
    assert "powercap" in host["leakwatt_udev"][0]
    assert host["leakwatt_groups"] == ["video", "render"]


def test_every_meter_says_what_it_needs() -> None:
    assert {*METERS.names()} == {*NEEDS}


def test_a_unit_means_its_words_literally() -> None:
    words = ["a b", 'say "x"', "50%", "$HOME", "back\\slash", "{}"]
    line = unit_line(words)
    assert "$HOME" not in line.replace("$$", "")
    assert unquoted(line) == words


@pytest.mark.parametrize(
    ("leakwatt", "says"),
    [("none.whl", "there is no file none.whl"), ("--pre", "a wheel .* or a version; got '--pre'")],
)
def test_what_is_installed_is_a_wheel_or_a_version(
    leakwatt: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        package_for(leakwatt, scratch=tmp_path)
    assert package_for("0.1.0", scratch=tmp_path) == "0.1.0"


def test_a_board_can_send_nothing_but_its_own_records_of_this_experiment(tmp_path: Path) -> None:
    experiment = parse_experiment({"name": "lab"}, where="test")
    run_id = experiment.run_id(experiment.arms[0])
    record = f"00000-{'a' * 64}.sealed"
    wanted = f"./client-0/{run_id}/{record}"
    others = [
        f"./client-1/{run_id}/{record}",
        f"./client-0/other-run/{record}",
        f"../client-0/{run_id}/{record}",
        f"/client-0/{run_id}/{record}",
        f"./client-0/{run_id}/../{record}",
        f"./client-0/{run_id}/notes.txt",
    ]
    (tmp_path / "file").write_text("sealed")
    with tarfile.open(tmp_path / "archive", "w") as archive:
        for name in (*others, wanted):
            archive.add(tmp_path / "file", arcname=name)
        link = tarfile.TarInfo(f"./client-0/{run_id}/00001-{'b' * 64}.sealed")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    run = RunFolder(tmp_path / "run")

    def stored() -> int:
        return store(tmp_path / "archive", client_id="client-0", experiment=experiment, run=run)

    assert [stored(), stored()] == [1, 0]
    found = [path for path in run.vault.rglob("*") if path.is_file()]
    assert found == [run.vault / "client-0" / run_id / record]
    (tmp_path / "archive").write_text("not one")
    with pytest.raises(RunError, match="client-0: what came is no archive"):
        stored()


def test_the_playbooks_are_there_and_every_task_has_a_name() -> None:
    yaml = pytest.importorskip("yaml")
    books = {path.stem for path in folder().glob("*.yml")}
    assert books == {"up", "update", "tell", "collect", "remove"}
    for path in folder().rglob("*.yml"):
        for task in yaml.safe_load(path.read_text()):
            assert {"name"} <= task.keys(), path


def test_boards_that_failed_are_named_with_their_reason() -> None:
    said = """\
ok: [client-0]
[ERROR]: Task failed: Failed to connect to the host via ssh: Connection refused
fatal: [client-1]: UNREACHABLE! => {"msg": "Task failed: Failed to connect to the host via ssh: \
Connection refused", "unreachable": true}
fatal: [client-2]: FAILED! => {"msg": "non-zero return code", "stderr": "Note\\nNo space left\\n"}
failed: [client-3] (item=a) => no table
"""
    assert faults(said) == [
        "client-1: Failed to connect to the host via ssh: Connection refused",
        "client-2: No space left",
        "client-3: no table",
    ]
    assert faults("[ERROR]: no inventory\n") == ["[ERROR]: no inventory"]
    assert faults("ok: [client-0]\n") == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("none.toml", "none.toml: cannot be read"),
        ("status", "boards.toml: cannot be read"),
        ("--check boards/boards.toml", "no run 'latest'"),
        ("remove none.toml", "none.toml: cannot be read"),
    ],
)
def test_bad_input_ends_before_anything_is_touched(
    words: str, says: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "boards").mkdir()
    written(tmp_path / "boards")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["deploy", *words.split()]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("words", ["", "up", "status", "logs", "collect", "update", "remove"])
def test_every_action_explains_itself(words: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["deploy", *words.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: leakwatt deploy")
    assert not shown.err


@pytest.mark.parametrize("words", ["status --check", "up --lines 3", "collect --check"])
def test_what_only_looks_has_no_dry_run(words: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["deploy", *words.split()])
    assert stop.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def tomls(path: Path, board: dict[str, Any]) -> Path:
    """One board, whose tables are written as TOML's."""
    meter = board.pop("meter", None)
    file = written(path, {**BOARD, **board})
    if meter:
        options = ", ".join(f"{k} = {json.dumps(v)}" for k, v in meter.get("options", {}).items())
        line = f'\nmeter = {{ name = "{meter["name"]}", options = {{ {options} }} }}\n'
        file.write_text(file.read_text() + line)
    return file


def hosts_of(
    boards: Boards, experiment: Experiment, private: PrivateFolder
) -> dict[str, dict[str, Any]]:
    """The inventory's hosts, as Ansible will read them."""
    check_boards(boards, experiment, private, where="boards.toml")
    made = inventory(boards, experiment, private, package="1.2")
    hosts: dict[str, dict[str, Any]] = json.loads(json.dumps(made))["all"]["hosts"]
    return hosts


def unquoted(line: str) -> list[str]:
    """A unit's command read back by systemd's rules."""
    words = []
    for word in line[1:-1].split('" "'):
        out, escaped = "", False
        for sign in word:
            escaped, out = (True, out) if sign == "\\" and not escaped else (False, out + sign)
        words.append(out.replace("$$", "$").replace("%%", "%"))
    return words
