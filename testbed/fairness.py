"""Whether energies may be compared: the same machines in the same state, and nobody else at work.

The gate looks at what the clients reported: their machine cards, temperatures and evidence of
throttling at the begin and end of every round. What they could not look at is said.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedcore.energy import EnergyReading, PhaseReport
from fedcore.layout import RunFolder
from fedcore.types import Missing
from testbed.by_device import DeviceResults
from testbed.results import ArmResults, Results
from testbed.windows import unlike_rounds

__all__ = ["ALLOWED_RISE_C", "fair_run", "unlike_cards", "unlike_devices"]

ALLOWED_RISE_C = 5.0
"""Between the temperatures that two compared runs start at."""

_SAME = (
    *("board", "cpu", "n_cpus", "memory_bytes", "firmware", "kernel", "os", "power_mode"),
    *("limits", "affinity", "python", "wheels", "threads", "computing"),
)
_POLICY = ("cpus", "governor", "min_hz", "max_hz")

_EVENTS = ("_count", "_cnt", " has occurred")
"""Ends of sources that only ever rise; any other is a state, and 0 where all is well."""

Card = Mapping[str, Any]
"""A machine card as the client sent it; see `hardware.card.MachineCard`."""


def fair_run(results: Results) -> list[str]:
    """What speaks against comparing the arms' energies, and what could not be checked."""
    cards = {row.card: row.hello.get("machine_card", {}) for row in results.clients}
    said = [
        text
        for first, second in itertools.combinations(results.arms, 2)
        for text in _unlike_arms(first, second, cards)
    ]
    for arm in results.arms:
        said += _throttled(arm)
        said += _unmarked(arm, cards)
        said += _torn(arm)
    said += _disturbed(results, cards)
    return [*dict.fromkeys(said), *_unchecked(results)]


def unlike_devices(results: Results, devices: Sequence[DeviceResults]) -> list[str]:
    """What differs beside the networks, where devices, or arms of other clients, are compared.

    Args:
        results: of the run.
        devices: of all its arms.
    """
    cards = {row.card: row.hello.get("machine_card", {}) for row in results.clients}
    arms: dict[str, list[DeviceResults]] = {}
    for one in devices:
        if one.clients:
            arms.setdefault(one.part.arm.name, []).append(one)
    said = [text for own in arms.values() for one in own for text in _torn_device(one, cards)]
    for arm, own in arms.items():
        for a, b in itertools.combinations(own, 2):
            if found := [*_unlike_setups(a, b), *unlike_cards(*_cards_of(a, b, cards))]:
                pair = f"{a.device.name} and {b.device.name} in {arm}"
                said.append(f"{pair} differ in {'; '.join(found)}.")
    for (first, these), (second, those) in itertools.combinations(arms.items(), 2):
        clients = [sorted({c for one in own for c in one.clients}) for own in (these, those)]
        if clients[0] != clients[1]:
            said.append(
                f"{first} and {second} ran on different clients ({', '.join(clients[0])} and "
                f"{', '.join(clients[1])}): what differs may be the machines, or the data."
            )
    return list(dict.fromkeys(said))


def _torn_device(found: DeviceResults, cards: Mapping[str, Card]) -> Iterator[str]:
    """Clients of one device that are not alike, or not what the experiment says."""
    name = found.device.name
    if found.backends and found.backends != (found.device.backend,):
        yield (
            f"Clients of {name} run {' and '.join(found.backends)}, while the experiment says "
            f"{found.device.backend}."
        )
    machines = {report.ticket.client_id: report.machine_card for report in found.part.reports}
    (first, card), *others = machines.items()
    for client, its_card in others:
        if differences := unlike_cards(cards.get(card, {}), cards.get(its_card, {})):
            yield f"{first} and {client}, both of {name}, differ in {'; '.join(differences)}."


def _unlike_setups(first: DeviceResults, second: DeviceResults) -> Iterator[str]:
    backends = (", ".join(one.backends) or "unknown" for one in (first, second))
    yield from _unlike("backend", *backends)
    yield from _unlike("link", vars(first.device.link), vars(second.device.link))


def _cards_of(
    first: DeviceResults, second: DeviceResults, cards: Mapping[str, Card]
) -> tuple[Card, Card]:
    one, other = (cards.get(f.part.reports[0].machine_card, {}) for f in (first, second))
    return one, other


def unlike_cards(first: Card, second: Card) -> list[str]:
    """What differs between two machine cards that changes what work costs; both values are named.

    Temperatures and clocks of the moment are not among it, nor is which meter looked.
    """
    facts = [(name, first.get(name), second.get(name)) for name in _SAME]
    facts.append(("frequencies", _policies(first), _policies(second)))
    return [text for fact in facts for text in _unlike(*fact)]


def _unlike(name: str, first: Any, second: Any) -> Iterator[str]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in sorted({*first, *second} - {"why"}):
            yield from _unlike(f"{name} {key}", first.get(key), second.get(key))
    elif first != second:
        yield f"{name} ({_shown(first)} and {_shown(second)})"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"missing: {value['why']}" if "why" in value else json.dumps(value)
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "nothing" if value is None else str(value)


def _policies(card: Card) -> Any:
    found = card.get("frequencies")
    if not isinstance(found, list):
        return found
    return [{name: policy.get(name) for name in _POLICY} for policy in found]


def _unlike_arms(first: ArmResults, second: ArmResults, cards: Mapping[str, Card]) -> Iterator[str]:
    """Client by client: the machines, and the temperatures that the arms started at."""
    pair = f"{first.arm.name} and {second.arm.name}"
    a, b = _first_reports(first), _first_reports(second)
    for client in sorted(a.keys() & b.keys()):
        one, other = (cards.get(r.machine_card, {}) for r in (a[client], b[client]))
        if differences := unlike_cards(one, other):
            yield f"{client} was not the same machine in {pair}: {'; '.join(differences)}."
        heats = [_start_c(report) for report in (a[client], b[client])]
        if not any(isinstance(heat, Missing) for heat in heats):
            low, high = sorted(heat for heat in heats if not isinstance(heat, Missing))
            if high - low > ALLOWED_RISE_C:
                yield (
                    f"{client} started {pair} at {heats[0]:.0f} and {heats[1]:.0f} °C; more than "
                    f"{ALLOWED_RISE_C:g} °C apart, the warmer one costs more for the same work."
                )


def _throttled(arm: ArmResults) -> Iterator[str]:
    """Counters that rose during a round, states that were up at its begin or end, by client."""
    seen: dict[tuple[str, str], list[int]] = {}
    for report in arm.reports:
        for source in _throttling(report):
            seen.setdefault((report.ticket.client_id, source), []).append(report.ticket.round)
    for (client, source), rounds in seen.items():
        yield (
            f"{client} was held back in {arm.arm.name} ({source}) in {len(rounds)} "
            f"round{'' if len(rounds) == 1 else 's'}, first in round {rounds[0]}: its joules and "
            "seconds are those of a throttled machine."
        )


def _throttling(report: PhaseReport) -> Iterator[str]:
    if report.surroundings is None:
        return
    seen = [
        conditions.throttling
        for conditions in (report.surroundings.start, report.surroundings.end)
        if not isinstance(conditions.throttling, Missing)
    ]
    for source in dict.fromkeys(source for evidence in seen for source in evidence):
        values = [evidence[source] for evidence in seen if source in evidence]
        if values[-1] > values[0] if source.endswith(_EVENTS) else any(values):
            yield source


def _unmarked(arm: ArmResults, cards: Mapping[str, Card]) -> Iterator[str]:
    """Clients of one machine whose readings do not say that others are inside."""
    clients: dict[str, set[str]] = {}
    for report in arm.reports:
        host = _host(cards.get(report.machine_card, {}))
        if host and any(_is_alone(record.measured) for record in report.phases):
            clients.setdefault(host, set()).add(report.ticket.client_id)
    for names in clients.values():
        if len(names) > 1:
            yield (
                f"{', '.join(sorted(names))} ran on one machine in {arm.arm.name}, and their "
                "readings do not say so (--shared-by): each holds the others' joules."
            )


def _torn(arm: ArmResults) -> Iterator[str]:
    """Rounds whose own window and whose phases tell different energies."""
    if unlike := unlike_rounds(arm.reports):
        first = unlike[0].ticket
        yield (
            f"In {len(unlike)} client-round{'' if len(unlike) == 1 else 's'} of {arm.arm.name} "
            f"(first {first.client_id}, round {first.round}) the joules of the whole round are "
            "not those of its phases, within their uncertainties: the meter is not to be trusted."
        )


def _is_alone(measured: tuple[EnergyReading, ...] | Missing) -> bool:
    return not isinstance(measured, Missing) and not any(
        flag.startswith("shared(") for reading in measured for flag in reading.flags
    )


def _disturbed(results: Results, cards: Mapping[str, Card]) -> Iterator[str]:
    """Rounds that a live attack on a client's own machine worked through."""
    worked = _attack_instants(results.folder, results.arms)
    for arm in results.arms:
        hosts = {_host(cards.get(report.machine_card, {})) for report in arm.reports} - {None}
        rounds = [
            closed.round
            for closed in arm.rounds
            if any(
                host in hosts and closed.opened_wall_ns <= wall_ns <= closed.closed_wall_ns
                for wall_ns, host in worked
            )
        ]
        if rounds:
            yield (
                f"Contaminated: an attack was at work on a client's machine in {len(rounds)} "
                f"round{'' if len(rounds) == 1 else 's'} of {arm.arm.name}; a meter of that "
                "machine measured it, too."
            )


def _attack_instants(folder: RunFolder, arms: Sequence[ArmResults]) -> list[tuple[int, str]]:
    """When and where the attacker said that it was at work."""
    found = []
    for arm in arms:
        try:
            lines = (folder.attack(arm.run_id) / "progress.jsonl").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            told = json.loads(line)
            if isinstance(told.get("host"), str):
                found.append((told["wall_ns"], told["host"]))
    return found


def _host(card: Card) -> str | None:
    host = card.get("host")
    return host if isinstance(host, str) else None


def _unchecked(results: Results) -> list[str]:
    """What nobody could look at, once for all clients."""
    reports = [report for arm in results.arms for report in arm.reports]
    blind = [
        what
        for what, values in (
            ("temperatures", [_start_c(report) for report in reports]),
            ("throttling", [_end_throttling(report) for report in reports]),
        )
        if values and all(isinstance(value, Missing) for value in values)
    ]
    if not blind:
        return []
    return [f"No client could read {' or '.join(blind)}: whether they were alike is not known."]


def _first_reports(arm: ArmResults) -> dict[str, PhaseReport]:
    first: dict[str, PhaseReport] = {}
    for report in arm.reports:  # by round
        first.setdefault(report.ticket.client_id, report)
    return first


def _start_c(report: PhaseReport) -> float | Missing:
    if report.surroundings is None:
        return Missing(why="the client does not look")
    return report.surroundings.start.hottest_c


def _end_throttling(report: PhaseReport) -> object:
    if report.surroundings is None:
        return Missing(why="the client does not look")
    return report.surroundings.end.throttling
