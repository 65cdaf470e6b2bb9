"""The same experiment sends the same bits twice; another seed does not."""

import json
from pathlib import Path

import pytest

from aggregator.records import StoreReader
from fedcore.layout import RunFolder

from .conftest import Started

pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def hashes(run: Path) -> dict[tuple[str, int, str], str]:
    folder = RunFolder(run)
    experiment = folder.read_experiment()
    with StoreReader(folder.store_file) as store:
        return {
            (arm.name, update.ticket.round, update.ticket.client_id): update.sha256
            for arm in experiment.arms
            for update in store.updates(experiment.run_id(arm))
        }


def by_seed(started: Started) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for run in started.runs:
        found.setdefault(json.loads((run / "experiment.json").read_text())["seed"], []).append(run)
    return found


def test_the_same_experiment_sends_the_same_bits(twice: Started) -> None:
    first, second = by_seed(twice)[1]
    assert len(hashes(first)) == 2 * 4 * 2  # arms, rounds, clients
    assert hashes(first) == hashes(second)


def test_another_seed_sends_other_bits(twice: Started) -> None:
    (other,) = by_seed(twice)[2]
    same_key = hashes(other).keys() & hashes(by_seed(twice)[1][0]).keys()
    assert same_key
    assert not set(hashes(other).values()) & set(hashes(by_seed(twice)[1][0]).values())


def test_both_arms_used_the_same_examples(twice: Started) -> None:
    from fedcore.ground_truth import JudgeKey, open_record
    from fedcore.layout import PrivateFolder

    run = by_seed(twice)[1][0]
    key = JudgeKey.read(PrivateFolder(twice.folder / "private" / run.name).judge_private)
    shown: dict[tuple[str, int], list[bytes]] = {}
    for path in RunFolder(run).vault.rglob("*.sealed"):
        record = open_record(path.read_bytes(), key=key)
        place = (record.ticket.client_id, record.ticket.round)
        shown.setdefault(place, []).append(record.inputs.tobytes())
    assert len(shown) == 4 * 2
    assert all(len(both) == 2 and both[0] == both[1] for both in shown.values())


def test_a_finished_run_shows_exports_and_reports(twice: Started, tmp_path: Path) -> None:
    listed = json.loads(twice.leakwatt("runs", "list", "--json").stdout)
    assert [row["state"] for row in listed] == ["finished"] * 3
    shown = json.loads(twice.leakwatt("runs", "show", "latest", "--json").stdout)
    assert {arm["arm"] for arm in shown["arms"]} == {"ann", "snn"}
    for form in ("csv", "json", "parquet"):
        done = twice.leakwatt(
            "runs", "export", "latest", "--format", form, "--out", str(tmp_path / form)
        )
        assert done.returncode == 0, done.stderr
        assert list((tmp_path / form).iterdir())
