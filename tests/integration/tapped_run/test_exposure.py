"""Exposure of a run folder: from the bytes alone, with the vault, in files, tables and commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from edge_client.vault import Truth, Vault
from fedcore.errors import RunError
from fedcore.ground_truth import JudgeKey
from fedcore.layout import PrivateFolder
from fedcore.types import Missing, Ticket
from testbed.cli import main
from testbed.exports import export
from testbed.exposing import expose
from testbed.exposure import Exposure, read_exposures
from testbed.results import accepted_updates, load_results

SEALED_ROUND, UNSEALED_ROUND, OTHER_ROUND = 0, 1, 2  # the attack's victims are of 0 and 1


@pytest.fixture
def private(tapped, tmp_path: Path) -> PrivateFolder:
    """The judge's folder; the vault holds the truth of one victim round."""
    folder = PrivateFolder(tmp_path / "private")
    JudgeKey.generate().write(private=folder.judge_private, public=folder.judge_public)
    vault = Vault(tapped.run.vault, judge_key=folder.judge_public)
    for round in (SEALED_ROUND, UNSEALED_ROUND, OTHER_ROUND):
        tapped.accept_round("one", round)
    run_id = run_id_of(tapped)
    for update in accepted_updates(tapped.run, run_id):
        if update.ticket.round != UNSEALED_ROUND:
            inputs, label = tapped.truth(update.ticket)
            truth = Truth.copy_of(inputs=[inputs], labels=[label], encoded=[inputs[None]])
            vault.seal(truth, ticket=update.ticket, sha256=update.sha256)
    return folder


def run_id_of(tapped) -> str:
    return tapped.experiment.run_id(tapped.experiment.arms[0])


def rows_of(tapped) -> dict[int, list[Exposure]]:
    rows: dict[int, list[Exposure]] = {}
    for row in read_exposures(tapped.run, run_id_of(tapped)):
        rows.setdefault(row.ticket.round, []).append(row)
    return rows


def test_every_accepted_update_is_scored_and_only_victims_are_opened(tapped, private) -> None:
    expose(tapped.run, private, sigma=0.1)
    rows = rows_of(tapped)
    assert {round: len(found) for round, found in rows.items()} == {0: 2, 1: 2, 2: 2}
    for row in (row for found in rows.values() for row in found):
        assert row.first_layer_rank == 1  # one example
        assert row.is_peelable is True
        assert row.duration_s > 0
    for row in rows[SEALED_ROUND]:
        assert (row.jacobian_of, row.n_directions) == ("raw", 6)
        assert row.crb_mse == pytest.approx(0.1**2 * row.bound_factor)
        assert row.crb_mse_best <= row.crb_mse
        assert row.smallest <= row.median <= row.largest
    assert all("vault holds no record" in row.effective_rank.why for row in rows[UNSEALED_ROUND])
    assert all("only the update's bytes" in row.effective_rank.why for row in rows[OTHER_ROUND])


def test_every_round_can_be_opened(tapped, private) -> None:
    expose(tapped.run, private, every_round=True)
    assert all(row.n_directions == 6 for row in rows_of(tapped)[OTHER_ROUND])


def test_a_defence_without_noise_has_no_bound(tapped, private) -> None:
    expose(tapped.run, private)  # clipping alone
    for row in rows_of(tapped)[SEALED_ROUND]:
        assert isinstance(row.sigma, Missing)
        assert isinstance(row.crb_mse, Missing)
        assert isinstance(row.bound_factor, float)


def test_without_a_key_the_vault_stays_shut(tapped, private) -> None:
    private.judge_private.unlink()
    with pytest.raises(RunError, match="no judge key"):
        expose(tapped.run, private)
    expose(tapped.run, None)
    assert all(isinstance(row.largest, Missing) for row in rows_of(tapped)[SEALED_ROUND])


def test_it_is_loaded_and_exported_with_the_run(tapped, private, tmp_path: Path) -> None:
    assert load_results(tapped.run).arms[0].exposures == ()
    expose(tapped.run, private)
    assert len(load_results(tapped.run).arms[0].exposures) == 6
    export(tapped.run, format="csv", out=tmp_path / "tables")
    with (tmp_path / "tables" / "exposure.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6
    assert table[0]["is_peelable"] == "True"
    assert "vault holds no record" in table[2]["effective_rank_missing"]


def test_the_command_prints_a_table_or_json(tapped, private, capsys) -> None:
    arguments = ["exposure", str(tapped.run.root), "--private-folder", str(private.root)]
    assert main([*arguments, "--sigma", "0.1", "--directions", "4"]) == 0
    assert "on 4 of 6 raw values" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert [len(arm["rows"]) for arm in arms] == [6, 0]
    assert Ticket(**arms[0]["rows"][0]["ticket"]).round == 0


@pytest.mark.parametrize("wrong", [["--sigma", "0"], ["--sigma", "nan"], ["--directions", "0"]])
def test_nonsense_is_refused(tapped, private, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["exposure", str(tapped.run.root), *wrong])
    assert stopped.value.code == 2
