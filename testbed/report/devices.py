"""What each device did, and how far deployed forms did the same: for terminal, page and scripts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fedcore.devices import Agreement, LinkShape
from fedcore.types import Missing
from testbed.by_device import (
    DeviceResults,
    FormResults,
    contradiction,
    deployed_forms,
    deployments,
)
from testbed.costs import MeanEnergy, best_energy, mean_measured, mean_modelled
from testbed.findings import BASELINES, Findings, Summary
from testbed.latency import Latency, latencies
from testbed.metrics import METRICS
from testbed.report.operations import OperationsTable, counted, operations_table
from testbed.report.words import (
    DASH,
    bytes_text,
    energy_text,
    estimate_text,
    seconds_text,
    share_text,
)

__all__ = [
    "DeviceTable",
    "device_gaps",
    "device_plain",
    "device_tables",
    "form_rows",
    "forms_prices",
    "last_forms",
]

_LEAK = "psnr"
_ABSENT = "takes no part"

_EVERYBODYS = ("grpcio", "leakwatt", "numpy", "protobuf", "python")
"""Packages that every client has; the page shows their versions among the machines."""


@dataclass(frozen=True, kw_only=True)
class DeviceTable:
    """One arm, its devices side by side.

    Attributes:
        devices: the columns.
        lines: a label and one cell per device; a line that goes with the one above is indented.
    """

    arm: str
    devices: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]


def device_tables(found: Sequence[DeviceResults]) -> list[DeviceTable]:
    """One per arm."""
    arms: dict[str, list[DeviceResults]] = {}
    for one in found:
        arms.setdefault(one.part.arm.name, []).append(one)
    return [
        DeviceTable(
            arm=arm, devices=tuple(one.device.name for one in own), lines=tuple(_lines(own))
        )
        for arm, own in arms.items()
    ]


def device_plain(found: DeviceResults) -> Mapping[str, Any]:
    """One device in one arm for scripts; the two kinds of joules have keys of their own."""
    part, psnr = found.part, _leak(found)
    costs = list(part.costs.values())
    return {
        "device": found.device.name,
        "backend": found.backends,
        "versions": found.versions,
        "computing": found.computing,
        "clients": found.clients,
        "accuracy": part.accuracies[-1].share if part.accuracies else Missing(why="not evaluated"),
        "measured_energy_per_client_round": mean_measured(costs),
        "modelled_energy_per_client_round": mean_modelled(costs),
        "latency": _all_clients(found),
        "bytes_per_update": _mean_bytes(found),
        _LEAK: psnr,
        "deployed_forms": deployed_forms(found),
    }


def device_gaps(found: Sequence[DeviceResults]) -> Iterator[tuple[str, str, str]]:
    """Arm, what is missing and why, of devices that take part."""
    for one in found:
        arm, device = one.part.arm.name, one.device.name
        energy = _energy(one)
        if one.clients and isinstance(energy, Missing):
            yield arm, f"energy per client-round on {device}", energy.why
        for form in deployed_forms(one):
            for what, value in (
                ("accuracy", form.deployed),
                ("accuracy of what was trained beside it", form.trained),
                ("operations", form.operations),
            ):
                if isinstance(value, Missing):
                    yield arm, f"{what}, {form.form} on {device}", value.why


def form_rows(forms: Sequence[FormResults]) -> list[dict[str, Any]]:
    """The page's table: one row per arm, device, form and round."""
    return [
        {
            "arm": form.arm,
            "device": form.device,
            "form": f"{form.form}{' (must be exact)' if form.is_exact else ''}",
            "round": form.round,
            "n_clients": form.n_clients,
            "trained": share_text(form.trained),
            "deployed": share_text(form.deployed),
            "time": seconds_text(form.seconds_per_example),
            "agreements": list(_agreements(form)),
        }
        for form in forms
    ]


def last_forms(found: DeviceResults) -> list[FormResults]:
    """Of each form of a device the latest."""
    return list({form.form: form for form in deployed_forms(found)}.values())


def forms_prices(found: Sequence[DeviceResults]) -> OperationsTable | None:
    """Operations of the last deployed forms beside those of what was trained there."""
    columns = {}
    for one in found:
        if last := last_forms(one):
            where = f"{one.device.name} in {one.part.arm.name}"
            columns[f"{where}, trained"] = counted(one.part)
            columns |= {f"{where}, {form.form}": form.operations for form in last}
    return operations_table(columns, trains=False)


def _agreements(form: FormResults) -> Iterator[tuple[str, bool]]:
    """In words, and whether it is an error."""
    for agreement in form.agreements:
        yield _agreement(agreement), form.is_exact and agreement.n_differing > 0
    for why, n in Counter(form.failures).items():
        yield f"did not run on {n} client{'' if n == 1 else 's'}: {why}", form.is_exact
    if not form.agreements and not form.failures:
        yield "nothing was compared", form.is_exact


def _agreement(found: Agreement) -> str:
    share = found.n_differing / found.n_compared if found.n_compared > 0 else 0.0
    return f"{found.what}: {found.n_differing:,} of {found.n_compared:,} differ" + (
        f" ({100 * share:.2g} %)" if share else ""
    )


def _lines(own: Sequence[DeviceResults]) -> Iterator[tuple[str, tuple[str, ...]]]:
    def line(label: str, cell: Callable[[DeviceResults], str]) -> tuple[str, tuple[str, ...]]:
        return label, tuple(cell(one) if one.clients else DASH for one in own)

    metric = METRICS.get(_LEAK)
    yield "clients", tuple(", ".join(one.clients) or _ABSENT for one in own)
    yield line("backend", _backend)
    yield line("  versions", _versions)
    yield line("  computes on", lambda one: " and ".join(one.computing))
    if any(one.device.link.changes_anything for one in own):
        yield line("  link", lambda one: _link(one.device.link))
    yield line("accuracy (95 %)", _accuracy)
    yield line("energy per client-round", lambda one: energy_text(_energy(one)))
    yield line("  measured by", _meter)
    yield line("bytes per update", _bytes)
    yield line("latency, median (90th percentile)", _n_rounds)
    times = [{time.phase: time for time in _all_clients(one)} for one in own]
    for phase in dict.fromkeys(phase for found in times for phase in found):
        yield f"  {phase}", tuple(_time(found.get(phase)) for found in times)
    yield line("victims", _victims)
    yield line(f"{metric.label}, attack", partial(_estimate, of="attack"))
    for baseline in BASELINES:
        yield line(f"  {baseline.replace('-', ' ')}", partial(_estimate, of=baseline))
    yield line("  better than both (95 %)", _success)


def _backend(one: DeviceResults) -> str:
    """What its clients said they run, and what the experiment says where that is another."""
    said = ", ".join(one.backends) or DASH
    if one.backends not in ((), (one.device.backend,)):
        said += f" (the experiment says {one.device.backend})"
    return said


def _versions(one: DeviceResults) -> str:
    """Of what is its backend's alone."""
    own = [told for told in one.versions if told.partition(" ")[0] not in _EVERYBODYS]
    return ", ".join(own) or DASH


def _link(link: LinkShape) -> str:
    said = [
        f"{link.bandwidth_mbit_s:g} Mbit/s" if link.bandwidth_mbit_s else "",
        f"{link.latency_ms:g} ms one way" if link.latency_ms else "",
        f"{100 * link.loss:g} % lost" if link.loss else "",
    ]
    return ", ".join(filter(None, said)) or "as it is"


def _accuracy(one: DeviceResults) -> str:
    return share_text(one.part.accuracies[-1].share) if one.part.accuracies else DASH


def _energy(one: DeviceResults) -> MeanEnergy | Missing:
    return best_energy(list(one.part.costs.values()))


def _meter(one: DeviceResults) -> str:
    """With its boundary; a model is the experiment's, and the same for all devices."""
    energy = _energy(one)
    return energy.source if isinstance(energy, MeanEnergy) and energy.kind == "measured" else DASH


def _bytes(one: DeviceResults) -> str:
    mean = _mean_bytes(one)
    return DASH if isinstance(mean, Missing) else bytes_text(mean)


def _mean_bytes(one: DeviceResults) -> float | Missing:
    sizes = [update.n_bytes for update in one.part.updates]
    return math.fsum(sizes) / len(sizes) if sizes else Missing(why="no update was accepted")


def _n_rounds(one: DeviceResults) -> str:
    return f"{len(one.part.costs)} client-rounds"


def _all_clients(one: DeviceResults) -> list[Latency]:
    return [time for time in latencies(one.part.reports) if not time.client]


def _time(time: Latency | None) -> str:
    if time is None:
        return DASH
    median = "warm-up alone" if isinstance(time.median_s, Missing) else seconds_text(time.median_s)
    return median + ("" if isinstance(time.p90_s, Missing) else f" ({seconds_text(time.p90_s)})")


def _victims(one: DeviceResults) -> str:
    found = one.part.findings
    if isinstance(found, Missing):
        return "not judged"
    n_failed = sum(bool(attempt.failed) for attempt in found.attempts)
    return f"{len(found.attempts)}" + (f", {n_failed} failed" if n_failed else "")


def _leak(one: DeviceResults) -> Summary | Missing:
    """What was rebuilt of it; nothing where attacks differentiated another network than it ran."""
    if any(form.attacked and contradiction(form) for _, form in deployments(one.part)):
        return Missing(why="attacks differentiate a form of the network that differs from it")
    found = one.part.findings
    return found.summary(_LEAK) if isinstance(found, Findings) else found


def _estimate(one: DeviceResults, *, of: str) -> str:
    psnr, metric = _leak(one), METRICS.get(_LEAK)
    if isinstance(psnr, Missing):
        return DASH
    estimate = psnr.mean if of == "attack" else psnr.baselines[of]
    return estimate_text(estimate, digits=metric.digits, unit=metric.unit)


def _success(one: DeviceResults) -> str:
    psnr = _leak(one)
    return DASH if isinstance(psnr, Missing) else share_text(psnr.success)
