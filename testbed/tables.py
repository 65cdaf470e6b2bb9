"""Rows that are dataclasses -> CSV, Parquet or JSON files. A missing value keeps its reason.

A field that may be `Missing` becomes two columns: `x`, empty where it is missing, and
`x_missing` with the reason.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedcore.errors import ConfigError
from fedcore.strict import canonical_json, to_table
from fedcore.types import Missing, Ticket

__all__ = ["Format", "Table", "table_of", "write_table"]

Format = Literal["csv", "parquet", "json"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Named columns and rows of plain values."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | bool | None, ...], ...]

    def as_dicts(self) -> list[dict[str, Any]]:
        """One dictionary per row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def table_of(name: str, cls: type, rows: Sequence[Any]) -> Table:
    """Flatten dataclass instances.

    A ticket becomes `run_id`, `round`, `client_id`; mappings and tuples become compact JSON.

    Args:
        name: of the table.
        cls: the dataclass, which decides the columns even when there is no row.
        rows: its instances.
    """
    hints = typing.get_type_hints(cls)
    columns: list[str] = []
    for field in dataclasses.fields(cls):
        if hints[field.name] is Ticket:
            columns += ["run_id", "round", "client_id"]
        elif Missing in typing.get_args(hints[field.name]):
            columns += [field.name, f"{field.name}_missing"]
        else:
            columns.append(field.name)
    return Table(
        name=name, columns=tuple(columns), rows=tuple(_flat(row, hints=hints) for row in rows)
    )


def write_table(table: Table, *, format: Format, out: Path) -> Path:
    """Write one table into a folder.

    Raises:
        ConfigError: an unknown format, or Parquet without the package for it.
    """
    writers = {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}
    if format not in writers:
        raise ConfigError(f"format {format!r}: expected one of {', '.join(sorted(writers))}")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{table.name}.{format}"
    writers[format](table, path)
    return path


def _flat(row: Any, *, hints: Mapping[str, Any]) -> tuple[Any, ...]:
    cells: list[Any] = []
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Ticket):
            cells += [value.run_id, value.round, value.client_id]
        elif Missing in typing.get_args(hints[field.name]):
            is_missing = isinstance(value, Missing)
            cells += [None, value.why] if is_missing else [_cell(value), None]
        else:
            cells.append(_cell(value))
    return tuple(cells)


def _cell(value: Any) -> str | int | float | bool | None:
    plain = to_table(value)
    if isinstance(plain, dict | list):
        return canonical_json(plain).decode()
    cell: str | int | float | bool | None = plain
    return cell


def _write_csv(table: Table, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        for row in table.rows:
            writer.writerow([_unspoilt(cell) for cell in row])


def _unspoilt(cell: object) -> object:
    """Text that a spreadsheet would run as a formula gets a quote in front (CWE-1236)."""
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + cell
    return "" if cell is None else cell


def _write_json(table: Table, path: Path) -> None:
    path.write_text(json.dumps(table.as_dicts(), indent=1, allow_nan=False) + "\n")


def _write_parquet(table: Table, path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Parquet needs pyarrow: pip install 'leakwatt[export]', or take --format csv"
        ) from error
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    pyarrow.parquet.write_table(
        pyarrow.table(
            {name: list(values) for name, values in zip(table.columns, columns, strict=True)}
        ),
        path,
    )
