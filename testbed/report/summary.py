"""What `leakwatt run` prints at its end: one column per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedcore.layout import RunFolder
from fedcore.strict import to_table
from fedcore.types import Missing, ThreatModel
from testbed.by_device import by_device, contradictions
from testbed.costs import best_energy
from testbed.economy import UNITS, prices
from testbed.findings import Findings
from testbed.idling import net_energies
from testbed.latency import uncovered_share
from testbed.metrics import METRICS
from testbed.privacy import DELTA, guarantee
from testbed.report.devices import device_plain, device_tables, form_rows, last_forms
from testbed.report.words import (
    DASH,
    aligned,
    bytes_text,
    energy_text,
    estimate_text,
    known_from,
    price_text,
    seconds_text,
    share_text,
    threat_text,
)
from testbed.results import ArmResults, Results, load_results
from testbed.windows import mean_round, mean_run

__all__ = ["findings_table", "findings_text", "summary_rows", "summary_table", "summary_text"]

_SHOWN = ("psnr", "ssim", "label-accuracy")


def summary_table(run: RunFolder) -> list[dict[str, Any]]:
    """One table of plain values per arm, for scripts."""
    results = load_results(run)
    found = by_device(results)
    return [
        {
            **_arm_table(arm),
            "contradictions": contradictions([one for one in found if one.part.arm is arm.arm]),
            "devices": [to_table(device_plain(one)) for one in found if one.part.arm is arm.arm],
        }
        for arm in results.arms
    ]


def summary_text(run: RunFolder) -> str:
    """The summary for a terminal of 80 columns and more."""
    results = load_results(run)
    found = by_device(results)
    lines = [f"ERROR: {error}" for error in contradictions(found)]
    lines += aligned("", [arm.arm.name for arm in results.arms], summary_rows(results))
    for table in device_tables(found) if results.experiment.devices else ():
        lines += ["", *aligned(f"by device, {table.arm}", table.devices, table.lines)]
    for row in form_rows([form for one in found for form in last_forms(one)]):
        lines += ["", *_form_lines(row)]
    lines.append("")
    threats: dict[ThreatModel, list[str]] = {}
    for arm in results.arms:
        threats.setdefault(arm.arm.threat, []).append(arm.arm.name)
    for threat, names in threats.items():
        lines += [f"{', '.join(names)}:"] * (len(threats) > 1) + [threat_text(threat)]
    return "\n".join(lines) + "\n"


def _form_lines(row: Mapping[str, Any]) -> list[str]:
    return [
        "{form} on {device}, {arm}, round {round}: accuracy {deployed}".format(**row),
        f"  as trained: {row['trained']}",
        *(f"  {'ERROR: ' * is_error}{text}" for text, is_error in row["agreements"]),
    ]


def findings_text(findings: Findings) -> str:
    """One arm's outcome in one line."""
    psnr, metric = findings.summary("psnr"), METRICS.get("psnr")
    n_failed = sum(bool(attempt.failed) for attempt in findings.attempts)
    attack, mean_image, noise = (
        estimate_text(estimate, digits=metric.digits, unit=metric.unit)
        for estimate in (psnr.mean, psnr.baselines["mean-image"], psnr.baselines["noise"])
    )
    return (
        f"{findings.arm}: {len(findings.attempts)} victims, {n_failed} failed; PSNR {attack}, "
        f"mean image {mean_image}, noise {noise}"
    )


def findings_table(findings: Findings) -> dict[str, Any]:
    """The same for scripts, with every metric over all rounds."""
    plain: dict[str, Any] = to_table(
        {
            "arm": findings.arm,
            "run_id": findings.run_id,
            "attack": findings.attack,
            "victims": len(findings.attempts),
            "failed": sum(bool(attempt.failed) for attempt in findings.attempts),
            "metrics": {s.metric: s for s in findings.summaries if s.round is None},
        }
    )
    return plain


def summary_rows(results: Results) -> list[tuple[str, list[str]]]:
    """A label and one cell per arm, for the terminal and the page."""
    arms = results.arms
    bought = [prices(arm) for arm in arms]
    rows = [
        ("accuracy (95 %)", [_accuracy(arm) for arm in arms]),
        ("rounds closed", [f"{len(arm.rounds)}" for arm in arms]),
        ("victims", [_victims(arm) for arm in arms]),
        ("labels from", [_labels_from(arm) for arm in arms]),
        *_privacy_row(arms),
    ]
    for name in _SHOWN:
        rows += _metric_rows(arms, name)
    rows += [
        *((f"energy per {unit}", [price_text(found[unit]) for found in bought]) for unit in UNITS),
        *_net_row(arms),
        *_window_rows(arms),
        (
            "time per client-round",
            [seconds_text(_mean([c.duration_s for c in arm.costs.values()])) for arm in arms],
        ),
        ("  of a round in no phase", [_percent(uncovered_share(arm.reports)) for arm in arms]),
        ("bytes per update", [_bytes(arm) for arm in arms]),
        ("duration", [seconds_text(arm.duration_s) for arm in arms]),
    ]
    return rows


def _metric_rows(arms: Sequence[ArmResults], name: str) -> list[tuple[str, list[str]]]:
    """A metric and its baselines; a metric that no arm has is left out, as its baselines are."""
    metric = METRICS.get(name)
    found = [
        arm.findings.summary(name) if isinstance(arm.findings, Findings) else None for arm in arms
    ]
    labels = {arm.findings.labels[name] for arm in arms if isinstance(arm.findings, Findings)}
    if all(summary is None or summary.n == 0 for summary in found):
        return []
    label = f"{labels.pop() if len(labels) == 1 else metric.label}"

    def cells(of: str) -> list[str]:
        return [
            DASH
            if summary is None
            else estimate_text(
                {"attack": summary.mean, "clients": summary.by_client, **summary.baselines}[of],
                digits=metric.digits,
                unit=metric.unit,
            )
            for summary in found
        ]

    return [
        (f"{label}, attack", cells("attack")),
        ("  by client", cells("clients")),
        ("  mean image", cells("mean-image")),
        ("  noise", cells("noise")),
    ]


def _net_row(arms: Sequence[ArmResults]) -> list[tuple[str, list[str]]]:
    """Above idling; no row where nobody measured how the machine idles."""
    nets = net_energies(arms)
    if all(isinstance(net, Missing) for net in nets):
        return []
    return [("  above idling, per client-round", [energy_text(net) for net in nets])]


def _window_rows(arms: Sequence[ArmResults]) -> list[tuple[str, list[str]]]:
    """Around the phases; no row where nobody measured any."""
    rows = [
        ("  a whole round, evaluating included", [mean_round(arm.reports) for arm in arms]),
        ("  a whole run of a client, waiting included", [mean_run(arm.reports) for arm in arms]),
    ]
    return [
        (label, [energy_text(mean) for mean in means])
        for label, means in rows
        if not all(isinstance(mean, Missing) for mean in means)
    ]


def _privacy_row(arms: Sequence[ArmResults]) -> list[tuple[str, list[str]]]:
    """Differential privacy by arm; no row where no arm has any."""
    found = [
        guarantee(arm.arm.defences, n_rounds=max(1, len({u.ticket.round for u in arm.updates})))
        for arm in arms
    ]
    if all(isinstance(one, Missing) for one in found):
        return []
    cells = [
        DASH if isinstance(one, Missing) else f"{one.epsilon:.3g} per {one.of}" for one in found
    ]
    return [(f"epsilon at delta {DELTA:g}", cells)]


def _arm_table(arm: ArmResults) -> dict[str, Any]:
    findings = arm.findings
    costs = list(arm.costs.values())
    last = arm.accuracies[-1].share if arm.accuracies else Missing(why="never evaluated")
    table: Mapping[str, Any] = {
        "arm": arm.arm.name,
        "run_id": arm.run_id,
        "threat_model": arm.arm.threat.letter,
        "known_from": known_from(arm.arm.threat),
        "attack": arm.arm.attack.name,
        "labels_from": _labels_from(arm),
        "rounds_closed": len(arm.rounds),
        "accuracy": last,
        "chance": 1 / arm.arm.model.n_classes,
        "metrics": findings
        if isinstance(findings, Missing)
        else {s.metric: s for s in findings.summaries if s.round is None},
        "energy_per_client_round": best_energy(costs),
        "energy_per": prices(arm),
        "energy_per_whole_round": mean_round(arm.reports),
        "energy_per_whole_run": mean_run(arm.reports),
        "share_of_round_in_no_phase": uncovered_share(arm.reports),
        "seconds_per_client_round": _mean([cost.duration_s for cost in costs]),
        "bytes_per_update": _mean([update.n_bytes for update in arm.updates]),
        "duration_s": arm.duration_s,
    }
    plain: dict[str, Any] = to_table(table)
    return plain


def _accuracy(arm: ArmResults) -> str:
    return share_text(arm.accuracies[-1].share) if arm.accuracies else DASH


def _victims(arm: ArmResults) -> str:
    if isinstance(arm.findings, Missing):
        return "not judged"
    n_failed = sum(bool(attempt.failed) for attempt in arm.findings.attempts)
    return f"{len(arm.findings.attempts)}" + (f", {n_failed} failed" if n_failed else "")


def _labels_from(arm: ArmResults) -> str:
    """Where the attack has the labels from; an attack that does not say reads them itself."""
    if isinstance(arm.findings, Missing):
        return DASH
    sources = {a.labels_from or "the attack" for a in arm.findings.attempts if not a.failed}
    return ", ".join(sorted(sources)) or DASH


def _bytes(arm: ArmResults) -> str:
    sizes = sorted({update.n_bytes for update in arm.updates})
    if not sizes:
        return DASH
    return bytes_text(sizes[0]) + (f" to {bytes_text(sizes[-1])}" if len(sizes) > 1 else "")


def _percent(share: float | Missing) -> str:
    return DASH if isinstance(share, Missing) else f"{100 * share:.2g} %"


def _mean(values: Sequence[float]) -> float | Missing:
    return sum(values) / len(values) if values else Missing(why="no client reported")
