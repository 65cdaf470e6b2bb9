"""`leakwatt meter`: real commands under a replayed meter, and under none."""

import json
import sys
from pathlib import Path

import pytest

from fedcore.errors import ConfigError
from hardware.commands.meter import main
from hardware.meters.csv_replay import read_trace

POWER_W = 5.0
BUSY = [sys.executable, "-c", "print('work'); import time; time.sleep(0.4); raise SystemExit(3)"]


@pytest.fixture
def replayed(tmp_path: Path) -> list[str]:
    """Options of a meter that reads 5 W for long."""
    trace = tmp_path / "trace.csv"
    trace.write_text(f"t_s,VDD_IN\n0,{POWER_W}\n1000,{POWER_W}\n")
    return ["--meter", "csv-replay", "--option", f"path={trace}", "--period-s", "0.05"]


def test_a_command_is_measured_and_keeps_its_output_and_exit_code(
    replayed: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cost.json"
    assert main([*replayed, "--baseline-s", "0.2", "--out", str(out), "--", *BUSY]) == 3
    said = capfd.readouterr()
    assert said.out == "work\n"
    assert "measured" in said.err
    assert "VDD_IN (board-dc-input, csv-replay 1, " in said.err
    assert "replayed" in said.err
    assert "MODELLED" not in said.err
    assert "above 5 W of idling" in said.err
    cost = json.loads(out.read_text())
    (reading,) = cost["measured"]
    assert reading["energy_j"] == pytest.approx(POWER_W * cost["duration_s"], rel=1e-6)
    assert abs(cost["net"][0]["energy_j"]) <= cost["net"][0]["uncertainty_j"] + 1e-9
    assert cost["exit_code"] == 3


def test_watts_are_watched_and_recorded_as_the_replay_reads_them(
    replayed: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "power.csv"
    assert main([*replayed, "--every-s", "0.2", "--seconds", "0.5", "--csv", str(path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("VDD_IN 5.000" in line for line in lines)
    trace = read_trace(path)
    assert trace.power_w["VDD_IN"].tolist() == pytest.approx([POWER_W] * 3)


def test_a_command_is_recorded_while_it_runs(replayed: list[str], tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    main([*replayed, "--every-s", "0.1", "--csv", str(path), "--", *BUSY])
    assert len(read_trace(path).t_s) >= 3


def test_without_a_sensor_the_estimate_is_marked_and_the_way_out_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nowhere = ["--option", f"root={tmp_path}"]
    assert main([*nowhere, "--", sys.executable, "-c", "sum(range(10**6))"]) == 0
    said = capfd.readouterr().err
    assert "measured   nothing: no sensor reads here" in said
    assert "leakwatt doctor" in said
    assert "INA226" in said
    estimate = next(line for line in said.splitlines() if line.startswith("MODELLED"))
    assert " to " in estimate
    assert main(nowhere) == 1
    assert "MODELLED" not in capfd.readouterr().err


def test_a_command_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"no-such-program: cannot be run \(No such file"):
        main(["--meter", "null", "--", "no-such-program"])


def test_a_file_that_cannot_be_written_is_told_before_anything_runs(
    replayed: list[str], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="measure again"):
        main([*replayed, "--csv", str(tmp_path / "none" / "power.csv"), "--seconds", "0.1"])


def test_tools_that_are_not_installed_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["compare", "--meter", "null", "--", sys.executable, "-c", "pass"])
    said = capfd.readouterr().err
    assert code == 0
    for tool in ("codecarbon", "zeus", "jtop"):
        assert f"\n{tool}\n" in said


def test_compare_needs_a_command() -> None:
    with pytest.raises(ConfigError, match="compare needs a command"):
        main(["compare"])
