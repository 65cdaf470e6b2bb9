"""What each device did: its clients' results alone, and the deployed forms that they ran."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from fedcore.config import Experiment
from fedcore.devices import Agreement, Computing, Deployment, Device
from fedcore.energy import PhaseReport
from fedcore.errors import ConfigError
from fedcore.operations import LayerCount
from fedcore.strict import parse
from fedcore.types import Missing
from testbed.results import ArmResults, Results
from testbed.statistics import Share, share_of_all

__all__ = [
    "DeviceResults",
    "FormResults",
    "by_device",
    "contradiction",
    "contradictions",
    "deployed_forms",
    "deployments",
    "mean_counts",
]

_NOT_COUNTED = Missing(why="no client has counted its operations yet")


@dataclass(frozen=True, kw_only=True)
class DeviceResults:
    """One device in one arm.

    Attributes:
        device: as the experiment names it.
        part: the arm, as if its clients there had been alone.
        backends: that these clients said they run.
        versions: of packages that they named, "torch 2.14.1"; two of one package are both there.
        computing: what they compute on, by their machine cards.
    """

    device: Device
    part: ArmResults
    backends: tuple[str, ...]
    versions: tuple[str, ...]
    computing: tuple[str, ...]

    @property
    def clients(self) -> tuple[str, ...]:
        """Who reported from it; nobody where it takes no part in the arm."""
        return tuple(sorted({report.ticket.client_id for report in self.part.reports}))


@dataclass(frozen=True, kw_only=True)
class FormResults:
    """A deployed form of the network on one device at one round's incoming weights.

    Attributes:
        is_exact: whether it must do exactly what the trained form does.
        trained: accuracy of the trained form, on all held-out examples of the device's clients.
        deployed: that of this form, on those that it was shown.
        seconds_per_example: wall time of the form's run alone.
        agreements: with the trained form, summed over clients.
        operations: mean over clients, per layer and example.
        failures: why it did not run, where it did not.
    """

    arm: str
    device: str
    form: str
    round: int
    n_clients: int
    is_exact: bool
    trained: Share | Missing
    deployed: Share | Missing
    seconds_per_example: float | Missing
    agreements: tuple[Agreement, ...]
    operations: tuple[LayerCount, ...] | Missing
    failures: tuple[str, ...] = ()


def by_device(results: Results) -> list[DeviceResults]:
    """Every device in every arm, arm by arm; clients that no device names are one of their own."""
    return [
        _on(device, arm, results) for arm in results.arms for device in _devices(results.experiment)
    ]


def deployments(part: ArmResults) -> Iterator[tuple[PhaseReport, Deployment]]:
    """What ran in a part's rounds, with whose report tells it."""
    for report in part.reports:
        for deployment in report.surroundings.deployments if report.surroundings else ():
            yield report, deployment


def deployed_forms(found: DeviceResults) -> list[FormResults]:
    """By round and form, those that could not be made last.

    It is empty where the device knows no form but the trained one.
    """
    groups: dict[tuple[int, str], list[Deployment]] = {}
    for report, deployment in deployments(found.part):
        groups.setdefault((report.ticket.round, deployment.form), []).append(deployment)
    accuracies = {accuracy.round: accuracy.share for accuracy in found.part.accuracies}
    ran = [
        FormResults(
            arm=found.part.arm.name,
            device=found.device.name,
            form=form,
            round=number,
            n_clients=len(own),
            is_exact=any(one.exact for one in own),
            trained=accuracies.get(number, Missing(why="the trained form was not evaluated")),
            deployed=share_of_all([(one.n_correct, one.n_examples) for one in own]),
            seconds_per_example=_seconds_per_example(own),
            agreements=_summed(own),
            operations=mean_counts([one.operations for one in own]),
            failures=tuple(one.failed for one in own if one.failed),
        )
        for (number, form), own in sorted(groups.items())
    ]
    return [*ran, *_unmade_forms(found)]


def _unmade_forms(found: DeviceResults) -> Iterator[FormResults]:
    """Forms that would have run in every evaluated round, had there been a graph of them."""
    missing = found.part.missing_graphs if "onnx" in found.backends else {}
    for form, why in missing.items():
        for accuracy in found.part.accuracies:
            yield FormResults(
                arm=found.part.arm.name,
                device=found.device.name,
                form=form,
                round=accuracy.round,
                n_clients=accuracy.n_clients,
                is_exact=False,
                trained=accuracy.share,
                deployed=why,
                seconds_per_example=why,
                agreements=(),
                operations=why,
                failures=(why.why,) * accuracy.n_clients,
            )


def contradiction(deployment: Deployment) -> str:
    """What differs although it must not, or ""."""
    if deployment.exact and deployment.failed:
        return f"it did not run ({deployment.failed})"
    if deployment.exact and not any(a.n_compared > 0 for a in deployment.agreements):
        return "nothing was compared"
    return ", ".join(
        f"{a.n_differing:,} of {a.n_compared:,} {a.what} differ" for a in deployment.contradictions
    )


def contradictions(devices: Sequence[DeviceResults]) -> list[str]:
    """Deployed forms that must do exactly what the trained form does, and do not, or nobody knows.

    One line for each arm, device and form.
    """
    seen: dict[tuple[str, str, str], list[str]] = {}
    for found in devices:
        for report, deployment in deployments(found.part):
            if text := contradiction(deployment):
                where = f"{report.ticket.client_id}, round {report.ticket.round}: {text}"
                key = found.part.arm.name, found.device.name, deployment.form
                seen.setdefault(key, []).append(where)
    return [
        f"{device} in {arm}: its deployed form ({form}) must do exactly what the trained one does, "
        f"and did not in {len(those)} client-round{'' if len(those) == 1 else 's'}; "
        f"first {those[0]}."
        for (arm, device, form), those in seen.items()
    ]


def mean_counts(
    counted: Sequence[tuple[LayerCount, ...] | Missing],
) -> tuple[LayerCount, ...] | Missing:
    """Layer by layer, over those who counted; they must have counted the same layers."""
    found = [layers for layers in counted if not isinstance(layers, Missing)]
    if not found:
        return next((why for why in counted if isinstance(why, Missing)), _NOT_COUNTED)
    if len({tuple(layer.name for layer in layers) for layers in found}) > 1:
        return Missing(why="the clients counted different layers: there is no common mean")
    return tuple(_mean(layers) for layers in zip(*found, strict=True))


def _mean(layers: Sequence[LayerCount]) -> LayerCount:
    return replace(
        layers[0],
        spikes=fmean(layer.spikes for layer in layers),
        acs=fmean(layer.acs for layer in layers),
        macs=fmean(layer.macs for layer in layers),
        dense=fmean(layer.dense for layer in layers),
    )


def _devices(experiment: Experiment) -> list[Device]:
    """Those that are named, then one for the clients that none of them names."""
    named = {client for device in experiment.devices for client in device.clients}
    rest = tuple(client for client in experiment.client_ids if client not in named)
    others = [replace(experiment.device_of(rest[0]), clients=rest)] if rest else []
    return [*experiment.devices, *others]


def _on(device: Device, arm: ArmResults, results: Results) -> DeviceResults:
    part = arm.of_clients(device.clients)
    machines = {(report.ticket.client_id, report.machine_card) for report in part.reports}
    hellos = [row.hello for row in results.clients if (row.client_id, row.card) in machines]
    return DeviceResults(
        device=device,
        part=part,
        backends=tuple(sorted({str(name) for hello in hellos for name in hello["backends"]})),
        versions=tuple(
            sorted({f"{name} {v}" for hello in hellos for name, v in hello["versions"].items()})
        ),
        computing=tuple(sorted({_computing(hello["machine_card"]) for hello in hellos})),
    )


def _computing(card: Mapping[str, Any]) -> str:
    """As a client tells it, who may tell anything."""
    try:
        told = parse(Computing, card.get("computing", {}), where="machine card")
    except ConfigError:
        return "unknown"
    return f"{', '.join(told.providers)}; threads: {told.threads}"


def _seconds_per_example(deployments: Sequence[Deployment]) -> float | Missing:
    n_examples = sum(one.n_examples for one in deployments)
    if n_examples <= 0:
        return Missing(why="the deployed form was shown no example")
    return math.fsum(one.duration_s for one in deployments) / n_examples


def _summed(deployments: Sequence[Deployment]) -> tuple[Agreement, ...]:
    both: dict[str, list[Agreement]] = {}
    for agreement in (a for one in deployments for a in one.agreements):
        both.setdefault(agreement.what, []).append(agreement)
    return tuple(
        Agreement(
            what=what,
            n_compared=sum(a.n_compared for a in own),
            n_differing=sum(a.n_differing for a in own),
        )
        for what, own in both.items()
    )
