"""The page of a study: what was found, grid by grid, what was refused, and what it cost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from fedcore.strict import to_table
from fedcore.types import Missing
from testbed.metrics import METRICS
from testbed.provenance import versions
from testbed.report import words
from testbed.report.template import template
from testbed.statistics import Estimate
from testbed.study.costs import costs_of
from testbed.study.design import Cell
from testbed.study.panels import AXIS_NAMES, Panel, panels_of
from testbed.study.results import Outcome
from testbed.study.running import Results
from testbed.study.strongest import Strongest, twin_rows
from testbed.study.tables import write_tables

__all__ = ["write_page"]

_SHORT = {
    "ssim": "SSIM",
    "reidentified": "found",
    "spike-iou": "IoU",
    "correlation": "r",
}
"""What stands small below a PSNR, where there is a score."""


def write_page(results: Results) -> Path:
    """Write `index.html`, `figures/` and `tables/` into the study's folder; returns the page."""
    page = template("study.html.j2").render(**_content(results))
    path = results.folder.page
    beside = path.with_suffix(".part")
    beside.write_text(page, encoding="utf-8")
    beside.replace(path)
    return path


def _content(results: Results) -> dict[str, Any]:
    """Everything that the template shows."""
    root = results.folder.root
    outcomes = results.outcomes
    costs = list(costs_of(outcomes))
    return {
        "study": results.study,
        "study_json": json.dumps(to_table(results.study), indent=2),
        "code": results.code,
        "counts": Counter(outcome.state for _, outcome in outcomes),
        "n_cells": len(outcomes),
        "cpu_s": sum(cost.cpu_s for cost in costs),
        "twins": [
            {
                "title": row.title,
                "ann": _strongest(row.ann),
                "snn": _strongest(row.snn),
                "difference": _brief(row.difference),
                **_nulls(row.ann if isinstance(row.snn, Missing) else row.snn),
            }
            for row in twin_rows(outcomes)
        ],
        "grids": [
            {
                "grid": grid,
                "axis": AXIS_NAMES[grid.x],
                "panels": [
                    _panel(panel, into=root / "figures") for panel in panels_of(results, grid)
                ],
            }
            for grid in results.study.grids
        ],
        "networks": _networks(outcomes),
        "gaps": _gaps(outcomes),
        "costs": _cost_rows(costs),
        "tables": [path.relative_to(root).as_posix() for path in write_tables(results)],
        "versions": versions(),
    }


def _panel(panel: Panel, *, into: Path) -> dict[str, Any]:
    return {
        "title": panel.title,
        "ticks": panel.ticks,
        "drawing": panel.figure(into=into),
        "rows": {
            name: [_entry(row[tick][1]) if tick in row else None for tick in panel.ticks]
            for name, row in panel.series.items()
        },
        "pictures": [
            {"name": f"{name}, {tick}", "pictures": outcome.pictures}
            for name, row in panel.series.items()
            for tick, (_, outcome) in row.items()
            if any(picture.truth for picture in outcome.pictures)
        ],
    }


def _entry(outcome: Outcome) -> dict[str, str]:
    """One cell of a table: PSNR, and small below it what else there is; or why there is nothing."""
    if outcome.state != "done":
        return {"main": outcome.state, "sub": "", "why": outcome.why}
    psnr = outcome.summaries["psnr"]
    if isinstance(psnr.mean, Missing):
        return {"main": "failed", "sub": "", "why": outcome.attempts[0].failed}
    return {
        "main": _brief(psnr.mean),
        "sub": " · ".join(_small(outcome)),
        "why": "",
    }


def _small(outcome: Outcome) -> list[str]:
    psnr = outcome.summaries["psnr"]
    found = [words.share_text(psnr.success)] if psnr.n else []
    if not (isinstance(psnr.oracle, Missing) or isinstance(psnr.mean, Missing)):
        found.append(f"oracle {psnr.oracle.value:.1f}")
    for name, short in _SHORT.items():
        mean = outcome.summaries[name].mean
        if not isinstance(mean, Missing):
            found.append(f"{short} {mean.value:.{METRICS.get(name).digits}f}")
    return found


def _brief(estimate: Estimate | Missing) -> str:
    """Without the words about an interval that equal or single values do not have."""
    if isinstance(estimate, Missing):
        return words.DASH
    if isinstance(estimate.half_width, Missing):
        return words.number_text(estimate.value, digits=1)
    return words.estimate_text(estimate, digits=1)


def _strongest(one: Strongest | Missing) -> dict[str, str]:
    """Its PSNR, and small below it which attack on what."""
    if isinstance(one, Missing):
        return {"main": words.DASH, "sub": ""}
    cell = one.cell
    how = [cell.attack]
    if cell.twin == "snn":
        how += [cell.coding, f"T = {cell.encoding.n_steps}", cell.surrogate]
    return {"main": _brief(one.psnr.mean), "sub": " · ".join(how)}


def _nulls(one: Strongest | Missing) -> dict[str, str]:
    """Baselines of the same victims."""
    found: dict[str, str] = {}
    for null in ("mean-image", "class-mean"):
        value = Missing(why="no cell") if isinstance(one, Missing) else one.psnr.baselines[null]
        number = value if isinstance(value, Missing) else value.value
        found[null.replace("-", "_")] = words.number_text(number, digits=1)
    return found


def _networks(outcomes: tuple[tuple[Cell, Outcome], ...]) -> list[dict[str, str]]:
    """Every network that was attacked, once."""
    found = {
        cell.network_key: {
            "name": " ".join(str(part) for part in cell.network_key[:6] if part),
            "stage": cell.stage,
            "seed": str(cell.seed),
            "accuracy": words.number_text(outcome.accuracy, digits=3),
            "training": words.seconds_text(outcome.training_s),
        }
        for cell, outcome in outcomes
        if outcome.state == "done"
    }
    return list(found.values())


def _gaps(outcomes: tuple[tuple[Cell, Outcome], ...]) -> list[dict[str, Any]]:
    """What was refused, is missing or failed, reason by reason."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for cell, outcome in outcomes:
        name = f"{cell.attack} on {cell.data}, {cell.network} {cell.twin}, {cell.coding}"
        reasons: list[tuple[str, str]]
        reasons = [(outcome.state, outcome.why)] if outcome.state != "done" else []
        reasons += [("failed victim", a.failed) for a in outcome.attempts if a.failed]
        for reason in reasons:
            found.setdefault(reason, Counter())[name] += 1
    return [
        {"state": state, "why": why, "n": sum(names.values()), "names": "; ".join(names)}
        for (state, why), names in found.items()
    ]


def _cost_rows(costs: list[Any]) -> list[dict[str, str]]:
    """CPU time by data set, network and attack."""
    sums: Counter[tuple[str, ...]] = Counter()
    for cost in costs:
        sums[cost.kinds[0]] += cost.cpu_s
    return [
        {"what": f"{data}, {network} {twin}", "attack": attack, "cpu": words.seconds_text(cpu_s)}
        for (data, network, twin, attack), cpu_s in sums.items()
    ]
