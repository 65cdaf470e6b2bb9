"""Whoever reads every file of the run and everything on the wire learns no truth and no draw.

The attacker here is stronger than ours: it may parse, decrypt nothing, but try every public value
as a seed.
"""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from fedcore.data.shards import read_shard
from fedcore.ground_truth import JudgeKey, VictimRecord, open_record
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.seeds import ClientSecret, stream

from .conftest import Started

pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def run(twice: Started) -> RunFolder:
    return RunFolder(twice.runs[0])


@pytest.fixture(scope="module")
def private(twice: Started, run: RunFolder) -> PrivateFolder:
    return PrivateFolder(twice.folder / "private" / run.root.name)


@pytest.fixture(scope="module")
def records(run: RunFolder, private: PrivateFolder) -> list[VictimRecord]:
    key = JudgeKey.read(private.judge_private)
    return [open_record(p.read_bytes(), key=key) for p in run.vault.rglob("*.sealed")]


def before_the_judge(run: RunFolder) -> list[Path]:
    """Every file that was there before judge and report were allowed to show truth."""
    files = [p for p in run.root.rglob("*") if p.is_file()]
    return [p for p in files if not {"report", "scores"} & set(p.relative_to(run.root).parts)]


def test_no_file_holds_a_victims_pixels(run: RunFolder, records: list[VictimRecord]) -> None:
    files = {path: path.read_bytes() for path in before_the_judge(run)}
    assert run.store_file in files
    assert any("journal" in path.parts for path in files)
    for record in records:
        pixels = record.inputs[0].astype(np.float32)
        forms = [
            pixels.tobytes(),
            (pixels * 16).astype(np.uint8).tobytes(),
            pixels.astype(np.float64).tobytes(),
        ]
        for path, content in files.items():
            assert not any(form in content for form in forms), path


def test_no_table_holds_a_label_column(run: RunFolder) -> None:
    with sqlite3.connect(run.store_file) as store:
        tables = [
            row[0] for row in store.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")
        ]
    assert tables
    assert not any("label" in sql.lower() for sql in tables)


def test_no_file_holds_a_secret_or_a_private_key(run: RunFolder, private: PrivateFolder) -> None:
    secrets = [private.secret_file(c) for c in run.read_experiment().client_ids]
    hidden = [ClientSecret.read(path).key for path in secrets]
    hidden.append(bytes.fromhex(private.judge_private.read_text()))
    hidden += [
        path.read_bytes() for path in private.root.rglob("*.key") if path != private.judge_private
    ]
    for path in before_the_judge(run):
        content = path.read_bytes()
        for secret in hidden:
            assert secret not in content
            assert secret.hex().encode() not in content


def test_public_values_do_not_lead_to_the_batch_or_the_draw(
    run: RunFolder, private: PrivateFolder, records: list[VictimRecord]
) -> None:
    """With the shard in hand, the client's secret finds the batch; nothing public does."""
    experiment = run.read_experiment()
    found_with_secret = 0
    for record in records:
        client_id = record.ticket.client_id
        shard = read_shard(private.service(client_id))
        truth = int(np.flatnonzero((shard.inputs == record.inputs[0]).all(axis=(1, 2, 3)))[0])
        labels = ("batch", experiment.digest, record.ticket.round)
        secret = ClientSecret.read(private.secret_file(client_id))
        found_with_secret += int(secret.stream(*labels).permutation(len(shard.labels))[0]) == truth
    assert found_with_secret == len(records)

    public = [experiment.seed, int(experiment.digest, 16) % 2**63]
    hits = 0
    for seed in public:
        for record in records:
            shard = read_shard(private.service(record.ticket.client_id))
            truth = np.flatnonzero((shard.inputs == record.inputs[0]).all(axis=(1, 2, 3)))
            guess = stream(seed, "batch", experiment.digest, record.ticket.round)
            hits += int(guess.permutation(len(shard.labels))[0]) in truth
    assert hits <= 2  # 64 blind guesses among some 500 examples


def test_the_shown_plan_hides_defences_that_are_not_granted(run: RunFolder) -> None:
    experiment = run.read_experiment()
    assert experiment.arms[1].defences
    shown = json.loads(
        (run.attack(experiment.run_id(experiment.arms[1])) / "reconstructions.json").read_text()
    )
    assert "gaussian" not in json.dumps(shown)
