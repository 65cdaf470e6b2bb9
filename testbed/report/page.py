"""One page per run: self-contained, readable from disk, in light and dark, on a phone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedcore.layout import RunFolder
from fedcore.strict import to_table
from fedcore.types import Missing
from testbed.by_device import DeviceResults, by_device, contradictions, deployed_forms
from testbed.costs import MeanEnergy, best_energy
from testbed.external import read_external
from testbed.fairness import fair_run, unlike_devices
from testbed.findings import Findings
from testbed.latency import latencies
from testbed.metrics import METRICS
from testbed.pictures import Picture, read_pictures
from testbed.provenance import versions
from testbed.report import figures, words
from testbed.report.canvas import Drawing, look_of
from testbed.report.comparison import Comparison, compare
from testbed.report.devices import device_gaps, device_tables, form_rows, forms_prices
from testbed.report.exposure import exposure_table
from testbed.report.external import external_rows
from testbed.report.grids import Grid
from testbed.report.operations import counted, operations_table
from testbed.report.plane import plane_figures
from testbed.report.sentences import sentences
from testbed.report.summary import summary_rows
from testbed.report.template import template
from testbed.results import ArmResults, Results, load_results
from testbed.statistics import Estimate

__all__ = ["write_report"]

_PLANES = ("psnr", "ssim")
_FIRST_METRICS = (*_PLANES, "mse", "label-accuracy")


def write_report(run: RunFolder) -> Path:
    """Write `report/index.html` and `report/figures/`, and return the page's path.

    Raises:
        ConfigError: this is no run folder.
        RunError: nothing was run yet.
    """
    results = load_results(run)
    pictures = [_pictures(run, arm) for arm in results.arms]
    page = template("page.html.j2").render(**_content(results, pictures))
    run.report.mkdir(parents=True, exist_ok=True)
    beside = run.report / "index.part"
    beside.write_text(page, encoding="utf-8")
    path = run.report / "index.html"
    beside.replace(path)
    return path


def _content(results: Results, pictures: Sequence[Sequence[Picture]]) -> dict[str, Any]:
    """Everything that the template shows."""
    arms = results.arms
    findings = [arm.findings for arm in arms if isinstance(arm.findings, Findings)]
    comparisons = _comparisons(arms, pictures)
    folder = results.folder.report / "figures"
    devices = by_device(results)
    energies = [best_energy(list(one.part.costs.values())) for one in devices]
    kinds = {energy.kind for energy in energies if isinstance(energy, MeanEnergy)}
    return {
        "errors": contradictions(devices),
        "experiment": results.experiment,
        "experiment_json": json.dumps(to_table(results.experiment), indent=2),
        "arms": arms,
        "colours": [look_of(i).colour for i in range(len(arms))],
        "same_threat": len({arm.arm.threat for arm in arms}) == 1,
        "is_modelled": "modelled" in kinds,
        "is_measured": "measured" in kinds,
        "sentences": sentences(
            arms, comparisons, machines=[*fair_run(results), *unlike_devices(results, devices)]
        ),
        "summary": summary_rows(results),
        "planes": [
            drawing
            for metric in _PLANES
            if any(found.summary(metric).n for found in findings)
            for drawing in plane_figures(
                [(arm.arm.name, arm) for arm in arms],
                metric=metric,
                name=f"plane-{metric}",
                into=folder,
            )
        ],
        "grids": [
            Grid.of(arm, found, into=folder) for arm, found in zip(arms, pictures, strict=True)
        ],
        "scores": [row for found in findings for row in _score_rows(found)],
        "rdlv": [
            (found.arm, _cell(found.summary("ssim").rdlv, 2))
            for found in findings
            if not isinstance(found.summary("ssim").rdlv, Missing)
        ],
        "exposure": exposure_table({arm.arm.name: arm.exposures for arm in arms}),
        "operations": operations_table({arm.arm.name: counted(arm) for arm in arms}),
        **_devices(results, devices, folder),
        "bars": list(itertools.chain.from_iterable(_bars(arm, folder) for arm in arms)),
        "phases": [row for arm in arms for row in _phase_rows(arm)],
        "external": external_rows(read_external(results.folder), arms),
        "training": [
            figures.accuracy_figure(arms, into=folder),
            figures.bytes_figure(arms, into=folder),
            figures.loss_figure(arms, into=folder),
        ],
        "audit": results.audit,
        "clients": [
            {
                "client": row.client_id,
                "versions": row.hello.get("versions", {}),
                "card": json.dumps(row.hello.get("machine_card", {}), indent=2),
            }
            for row in results.clients
        ],
        "missing": _missing_rows(results, devices),
        "versions": versions(),
    }


def _devices(results: Results, found: Sequence[DeviceResults], folder: Path) -> dict[str, Any]:
    """What the template shows of devices, where the experiment names any, and of their forms."""
    present = [one for one in found if one.clients]
    named = bool(results.experiment.devices)
    return {
        "devices": device_tables(found) if named else [],
        "device_planes": [
            drawing
            for arm in results.arms
            if named and isinstance(arm.findings, Findings)
            for drawing in plane_figures(
                [(one.device.name, one.part) for one in present if one.part.arm is arm.arm],
                metric=_PLANES[0],
                name=f"plane-devices-{arm.arm.name}",
                into=folder,
                of=arm.arm.name,
            )
        ],
        "forms": form_rows([form for one in present for form in deployed_forms(one)]),
        "forms_operations": forms_prices(present),
    }


def _pictures(run: RunFolder, arm: ArmResults) -> tuple[Picture, ...]:
    return () if isinstance(arm.findings, Missing) else read_pictures(run, arm.run_id)


def _comparisons(
    arms: Sequence[ArmResults], pictures: Sequence[Sequence[Picture]]
) -> list[Comparison]:
    """Every pair of arms that were judged, in PSNR and SSIM."""
    judged = [
        (a, p) for a, p in zip(arms, pictures, strict=True) if isinstance(a.findings, Findings)
    ]
    return [
        compare(first, second, metric=metric, pictures=(p, q))
        for (first, p), (second, q) in itertools.combinations(judged, 2)
        for metric in _PLANES
    ]


def _score_rows(findings: Findings) -> Iterator[dict[str, Any]]:
    """One row per metric and round; a metric without its baselines is not shown."""
    first = {name: i for i, name in enumerate(_FIRST_METRICS)}
    for summary in sorted(
        findings.summaries, key=lambda s: (first.get(s.metric, len(first)), s.metric)
    ):
        metric = METRICS.get(summary.metric)
        if isinstance(summary.mean, Missing):
            continue
        yield {
            "arm": findings.arm,
            "metric": findings.labels[summary.metric],
            "is_lower_better": not metric.higher_is_better,
            "round": summary.round,
            "n": f"{summary.n}"
            + (f" of {summary.n + summary.n_missing}" if summary.n_missing else ""),
            "attack": _cell(summary.mean, metric.digits),
            "by_client": _cell(summary.by_client, metric.digits),
            "oracle": _mean(summary.oracle, metric.digits),
            "mean_image": _mean(summary.baselines["mean-image"], metric.digits),
            "class_mean": _mean(summary.baselines["class-mean"], metric.digits),
            "noise": _mean(summary.baselines["noise"], metric.digits),
            "over_mean_image": _cell(summary.differences["mean-image"], metric.digits),
            "over_noise": _cell(summary.differences["noise"], metric.digits),
            "success": words.share_text(summary.success),
            "restarts": words.share_text(summary.restart_success),
        }


def _cell(estimate: Estimate | Missing, digits: int) -> str:
    return words.estimate_text(estimate, digits=digits)


def _mean(estimate: Estimate | Missing, digits: int) -> str:
    value = estimate if isinstance(estimate, Missing) else estimate.value
    return words.number_text(value, digits=digits)


def _bars(arm: ArmResults, folder: Path) -> Iterator[Drawing | Missing]:
    if not arm.costs:
        return
    yield figures.latency_figure(arm, into=folder)
    yield figures.energy_figure(arm, into=folder)


def _phase_rows(arm: ArmResults) -> Iterator[dict[str, str]]:
    """Latency by phase, over all clients and by client; each client's first round is left out."""
    for found in latencies(arm.reports):
        yield {
            "arm": arm.arm.name,
            "client": found.client or "all",
            "phase": found.phase,
            "n": f"{found.n}",
            "warm_up": f"{found.n_warm_up}",
            **{
                name: "n too small" if isinstance(value, Missing) else words.seconds_text(value)
                for name, value in (
                    ("median", found.median_s),
                    ("p90", found.p90_s),
                    ("p99", found.p99_s),
                )
            },
        }


def _missing_rows(results: Results, devices: Sequence[DeviceResults]) -> list[dict[str, Any]]:
    """What is missing, why, and how often; every gap on the page is explained here."""
    counts: dict[tuple[str, str, str], int] = {}
    gaps = itertools.chain(_gaps(results), device_gaps(devices))
    for arm, what, why in gaps:
        counts[arm, what, why] = counts.get((arm, what, why), 0) + 1
    return [
        {"arm": arm, "what": what, "why": why, "n": n} for (arm, what, why), n in counts.items()
    ]


def _gaps(results: Results) -> Iterator[tuple[str, str, str]]:
    for arm in results.arms:
        name = arm.arm.name
        if isinstance(arm.findings, Missing):
            yield name, "scores", arm.findings.why
        else:
            failed = {a.ticket: a.failed for a in arm.findings.attempts if a.failed}
            for why in failed.values():
                yield name, "all scores of a victim", why
            for score in arm.findings.scores:
                suits = METRICS.get(score.metric).suits(arm.arm.model.input_shape)
                if isinstance(score.value, Missing) and suits and score.ticket not in failed:
                    yield name, arm.findings.labels[score.metric], score.value.why
        for report in arm.reports:
            for record in report.phases:
                if isinstance(record.measured, Missing):
                    yield name, "measured energy of a phase", record.measured.why
                if isinstance(record.modelled, Missing):
                    yield name, "modelled energy of a phase", record.modelled.why
        if not arm.accuracies:
            yield name, "accuracy", "no client has evaluated yet"
        for accuracy in arm.accuracies:
            if isinstance(accuracy.share, Missing):
                yield name, f"accuracy of round {accuracy.round}", accuracy.share.why
        for what, value in (
            ("energy per client-round", best_energy(list(arm.costs.values()))),
            ("duration", arm.duration_s),
        ):
            if isinstance(value, Missing):
                yield name, what, value.why
        reported = {report.ticket for report in arm.reports}
        for update in arm.updates:
            if update.ticket not in reported:
                yield name, "phase report of an accepted update", "the client never sent it"
