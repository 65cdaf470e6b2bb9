"""The doctor: a verdict for every sensor, with what it measures or the fix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hardware.doctor import as_text, diagnose, main
from hardware.registry import sensors


@pytest.fixture
def with_rapl(tmp_path: Path) -> Path:
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "energy_uj").write_text("52649883221\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    return tmp_path


def test_every_sensor_and_the_model_get_a_verdict(tmp_path: Path) -> None:
    findings = diagnose(tmp_path)
    looked_for = sensors()
    named = [finding.meter for finding in findings]
    assert named[: len(looked_for)] == looked_for
    assert named[-1] == "model"
    assert {"usb-meter", "smart-plug"} <= {f.meter for f in findings if f.is_usable is None}
    for finding in findings:
        assert finding.says
        assert finding.fix
        assert bool(finding.is_usable) == (finding.meter == "model")
        assert finding.is_measured == (finding.meter != "model")
    text = as_text(findings)
    assert text.startswith("No sensor can be read here: energy is modelled")
    for finding in findings:
        assert finding.says in " ".join(text.split())
        assert finding.fix in text


def test_a_sensor_that_reads_says_what_it_measures(with_rapl: Path) -> None:
    rapl = diagnose(with_rapl)[0]
    assert rapl.is_usable
    assert "package-0 (cpu-package, steps of 6.1e-05 J, within 5 %)" in rapl.says
    assert as_text(diagnose(with_rapl)).startswith("Energy is measured here by: rapl.")


def test_json_is_for_scripts(with_rapl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--root", str(with_rapl)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["meter"] for row in rows if row["is_usable"] and row["is_measured"]] == ["rapl"]


def test_it_runs_as_a_module_and_its_code_says_whether_anything_measures(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hardware.doctor", "--root", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert "modprobe" in done.stdout
