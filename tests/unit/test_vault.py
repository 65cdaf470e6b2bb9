"""The vault: sealed for the judge alone, whole or not at all, and collected by name."""

import resource
from pathlib import Path

import numpy as np
import pytest

from edge_client.vault import Truth, Vault, collect, purge
from fedcore.errors import ConfigError, RunError, StorageError
from fedcore.ground_truth import JudgeKey, open_record
from fedcore.layout import RunFolder
from fedcore.types import Ticket

SHA256 = "ab" * 32


def ticket(*, run_id: str = "demo-ann", round: int = 3, client_id: str = "client-0") -> Ticket:
    return Ticket(run_id=run_id, round=round, client_id=client_id)


def two_steps() -> Truth:
    """Two local steps of two and one example; the encoding has four steps of time."""
    rng = np.random.default_rng(5)
    inputs = [rng.random((n, 1, 2, 2), dtype=np.float32) for n in (2, 1)]
    return Truth.copy_of(
        inputs=inputs,
        labels=[np.array([7, 1]), np.array([2])],
        encoded=[np.repeat(x[np.newaxis], 4, axis=0) for x in inputs],
    )


@pytest.fixture
def judge(tmp_path: Path) -> JudgeKey:
    key = JudgeKey.generate()
    key.write(private=tmp_path / "judge.key", public=tmp_path / "judge.pub")
    return key


@pytest.fixture
def vault(tmp_path: Path, judge: JudgeKey) -> Vault:
    return Vault(tmp_path / "vault", judge_key=tmp_path / "judge.pub")


def test_the_judge_reads_what_was_sealed(vault: Vault, judge: JudgeKey, tmp_path: Path) -> None:
    truth = two_steps()
    path = vault.seal(truth, ticket=ticket(), sha256=SHA256)
    assert path == RunFolder(tmp_path).sealed_file(ticket(), SHA256)
    record = open_record(path.read_bytes(), key=judge)
    assert (record.ticket, record.sha256, record.batch_sizes) == (ticket(), SHA256, (2, 1))
    for name in ("inputs", "labels", "encoded_input"):
        np.testing.assert_array_equal(getattr(record, name), getattr(truth, name))
    assert record.encoded_input.shape == (4, 3, 1, 2, 2)


def test_truth_is_a_copy() -> None:
    inputs, labels, encoded = np.ones((1, 2)), np.array([1]), np.ones((3, 1, 2))
    truth = Truth.copy_of(inputs=[inputs], labels=[labels], encoded=[encoded])
    for array in (inputs, labels, encoded):
        array[...] = 0
    assert truth.inputs.all()
    assert truth.labels.all()
    assert truth.encoded_input.all()


def test_a_disk_that_fills_up_leaves_no_half_record(vault: Vault, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # a record is longer
    try:
        with pytest.raises(StorageError, match="not sent"):
            vault.seal(two_steps(), ticket=ticket(), sha256=SHA256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in (tmp_path / "vault").rglob("*") if path.is_file()]


def test_a_vault_that_is_no_folder_is_a_storage_error(judge: JudgeKey, tmp_path: Path) -> None:
    (tmp_path / "vault").write_text("in the way")
    vault = Vault(tmp_path / "vault", judge_key=tmp_path / "judge.pub")
    with pytest.raises(StorageError, match=r"move the file .* start the client again.*client-0"):
        vault.seal(two_steps(), ticket=ticket(), sha256=SHA256)


def test_a_missing_judge_key_is_bad_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judge\.pub"):
        Vault(tmp_path / "vault", judge_key=tmp_path / "judge.pub")


def test_collecting_copies_records_once_and_nothing_else(judge: JudgeKey, tmp_path: Path) -> None:
    boards = [tmp_path / "board-0", tmp_path / "board-1"]
    for i, board in enumerate(boards):
        vault = Vault(board, judge_key=tmp_path / "judge.pub")
        vault.seal(two_steps(), ticket=ticket(client_id=f"client-{i}"), sha256=SHA256)
    stray = boards[0] / "client-0" / "demo-ann"
    (stray / "00004-short.sealed").write_text("no digest in its name")
    (stray / f"00005-{SHA256}.sealed").symlink_to(tmp_path / "judge.key")
    into = tmp_path / "run" / "vault"
    assert collect(boards, into=into) == 2
    assert collect(boards, into=into) == 0
    found = sorted(path for path in into.rglob("*") if path.is_file())
    run = RunFolder(tmp_path / "run")
    assert found == [run.sealed_file(ticket(client_id=f"client-{i}"), SHA256) for i in (0, 1)]
    assert open_record(found[1].read_bytes(), key=judge).ticket.client_id == "client-1"


def test_purging_one_run_keeps_the_others(vault: Vault, tmp_path: Path) -> None:
    for run_id in ("demo-ann", "demo-snn"):
        for round in (0, 1):
            vault.seal(two_steps(), ticket=ticket(run_id=run_id, round=round), sha256=SHA256)
    root = tmp_path / "vault"
    assert purge(root, run_id="demo-ann") == 2
    assert {path.parts[-2] for path in root.rglob("*.sealed")} == {"demo-snn"}
    assert purge(root) == 2
    assert not list(root.rglob("*.sealed"))


@pytest.mark.parametrize("act", [lambda path: purge(path), lambda path: collect([path], into=path)])
def test_a_vault_that_is_not_there_is_named(act, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere"):
        act(tmp_path / "nowhere")
