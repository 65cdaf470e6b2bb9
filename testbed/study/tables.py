"""The cells of a study as plain tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedcore.types import Missing
from testbed.findings import Summary
from testbed.statistics import Estimate, Share
from testbed.study.costs import costs_of, write_costs
from testbed.study.design import Cell
from testbed.study.results import Outcome
from testbed.study.running import Results
from testbed.tables import Format, table_of, write_table

__all__ = ["write_tables"]

_FORMATS: tuple[Format, ...] = ("csv", "json")


@dataclass(frozen=True, kw_only=True)
class _CellRow:
    cell: str
    state: str
    why: str
    data: str
    network: str
    twin: str
    coding: str
    n_steps: int
    surrogate: str
    stage: str
    batch_size: int
    seed: int
    attack: str
    restarts: int
    iterations: int
    knows: tuple[str, ...]
    n_victims: int
    n_pool: int
    accuracy: float | Missing
    cpu_s: float
    training_s: float


@dataclass(frozen=True, kw_only=True)
class _ScoreRow:
    cell: str
    metric: str
    n: int
    n_missing: int
    mean: float | Missing
    half_width: float | Missing
    oracle: float | Missing
    mean_image: float | Missing
    class_mean: float | Missing
    noise: float | Missing
    over_mean_image: float | Missing
    over_mean_image_half_width: float | Missing
    n_success: int | Missing
    success_low: float | Missing
    success_high: float | Missing


def write_tables(results: Results) -> list[Path]:
    """Write `tables/{cells,scores}.{csv,json}` and `tables/costs.json`; returns their paths."""
    out = results.folder.root / "tables"
    outcomes = [
        (cell, outcome, cell.digest(results.code)[:16]) for cell, outcome in results.outcomes
    ]
    tables = (
        table_of("cells", _CellRow, [_cell_row(*each) for each in outcomes]),
        table_of(
            "scores",
            _ScoreRow,
            [row for _, outcome, name in outcomes for row in _score_rows(outcome, name)],
        ),
    )
    paths = [write_table(table, format=format, out=out) for table in tables for format in _FORMATS]
    write_costs(out / "costs.json", costs_of(results.outcomes))
    return [*paths, out / "costs.json"]


def _cell_row(cell: Cell, outcome: Outcome, name: str) -> _CellRow:
    return _CellRow(
        cell=name,
        state=outcome.state,
        why=outcome.why,
        data=cell.data,
        network=cell.network,
        twin=cell.twin,
        coding=cell.coding,
        n_steps=cell.encoding.n_steps,
        surrogate=cell.surrogate,
        stage=cell.stage,
        batch_size=cell.batch_size,
        seed=cell.seed,
        attack=cell.attack,
        restarts=cell.setting.restarts,
        iterations=cell.setting.iterations,
        knows=cell.setting.knows,
        n_victims=cell.n_victims,
        n_pool=outcome.n_pool,
        accuracy=outcome.accuracy,
        cpu_s=outcome.cpu_s,
        training_s=outcome.training_s,
    )


def _score_rows(outcome: Outcome, name: str) -> Iterator[_ScoreRow]:
    for metric, summary in outcome.summaries.items():
        yield _score_row(metric, summary, name)


def _score_row(metric: str, summary: Summary, name: str) -> _ScoreRow:
    over = summary.differences["mean-image"]
    success = summary.success
    return _ScoreRow(
        cell=name,
        metric=metric,
        n=summary.n,
        n_missing=summary.n_missing,
        mean=_value(summary.mean),
        half_width=_half_width(summary.mean),
        oracle=_value(summary.oracle),
        mean_image=_value(summary.baselines["mean-image"]),
        class_mean=_value(summary.baselines["class-mean"]),
        noise=_value(summary.baselines["noise"]),
        over_mean_image=_value(over),
        over_mean_image_half_width=_half_width(over),
        n_success=success.n_yes if isinstance(success, Share) else success,
        success_low=success.low if isinstance(success, Share) else success,
        success_high=success.high if isinstance(success, Share) else success,
    )


def _value(estimate: Estimate | Missing) -> float | Missing:
    return estimate if isinstance(estimate, Missing) else estimate.value


def _half_width(estimate: Estimate | Missing) -> float | Missing:
    return estimate if isinstance(estimate, Missing) else estimate.half_width
