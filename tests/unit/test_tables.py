"""Export: every value survives, every gap keeps its reason, no cell is a formula."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedcore.errors import ConfigError
from fedcore.types import Missing, Ticket
from testbed.tables import Table, table_of, write_table


@dataclass(frozen=True, kw_only=True)
class Row:
    ticket: Ticket
    energy_j: float | Missing
    flags: tuple[str, ...]
    note: str


TICKET = Ticket(run_id="r", round=3, client_id="client-1")
ROWS = [
    Row(ticket=TICKET, energy_j=1.25, flags=("a", "b"), note="=1+1"),
    Row(ticket=TICKET, energy_j=Missing(why="no sensor"), flags=(), note="plain"),
]


@pytest.fixture
def table() -> Table:
    return table_of("rows", Row, ROWS)


def test_a_ticket_becomes_the_columns_to_join_on(table: Table) -> None:
    assert table.columns == (
        *("run_id", "round", "client_id"),
        *("energy_j", "energy_j_missing", "flags", "note"),
    )
    assert table.as_dicts()[0]["energy_j"] == 1.25
    assert table.as_dicts()[1]["energy_j"] is None
    assert table.as_dicts()[1]["energy_j_missing"] == "no sensor"


def test_csv_has_an_empty_cell_and_the_reason(table: Table, tmp_path: Path) -> None:
    with write_table(table, format="csv", out=tmp_path).open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["energy_j"] for row in found] == ["1.25", ""]
    assert [row["energy_j_missing"] for row in found] == ["", "no sensor"]
    assert json.loads(found[0]["flags"]) == ["a", "b"]


def test_a_spreadsheet_runs_nothing(table: Table, tmp_path: Path) -> None:
    with write_table(table, format="csv", out=tmp_path).open(newline="") as file:
        assert next(csv.DictReader(file))["note"] == "'=1+1"


def test_json_round_trip(table: Table, tmp_path: Path) -> None:
    found = json.loads(write_table(table, format="json", out=tmp_path).read_text())
    assert found == table.as_dicts()


def test_parquet_round_trip(table: Table, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(write_table(table, format="parquet", out=tmp_path))
    assert found.to_pylist() == table.as_dicts()


@pytest.mark.parametrize("format", ["csv", "json"])
def test_an_empty_table_keeps_its_columns(format: str, tmp_path: Path) -> None:
    empty = table_of("empty", Row, [])
    assert empty.columns == table_of("rows", Row, ROWS).columns
    assert write_table(empty, format=format, out=tmp_path).exists()  # type: ignore[arg-type]


def test_an_unknown_format_is_refused(table: Table, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="csv, json, parquet"):
        write_table(table, format="xls", out=tmp_path)  # type: ignore[arg-type]
