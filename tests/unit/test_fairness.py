"""The fair-run gate and net energy, on results put together by hand."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fedcore.conditions import Conditions
from fedcore.energy import (
    Baseline,
    Boundary,
    EnergyReading,
    IdlePower,
    Phase,
    PhaseRecord,
    PhaseReport,
    Surroundings,
)
from fedcore.types import Missing, Ticket
from hardware.firmware import parse_throttled
from testbed.costs import MeanEnergy, round_cost
from testbed.fairness import fair_run, unlike_cards
from testbed.idling import net_energies

GONE = Missing(why="none here")
CARD = {
    "host": "aaaa",
    "board": "Raspberry Pi 5",
    "kernel": "6.6",
    "wheels": {"numpy": "2.4", "torch": {"why": "not installed"}},
    "computing": {"providers": ["CPUExecutionProvider"], "threads": "1"},
    "frequencies": [
        {"cpus": [0], "governor": "performance", "min_hz": 1, "max_hz": 2, "current_hz": [1, 2]}
    ],
    "conditions": {"temperatures_c": {"cpu": 40.0}},
}


def conditions(hottest_c: float | None, **throttling: int) -> Conditions:
    return Conditions(
        temperatures_c=GONE if hottest_c is None else {"cpu": hottest_c},
        throttling=throttling or GONE,
        clock_hz=GONE,
    )


def idle(start_s: float, power_w: float) -> Baseline:
    rail = IdlePower(
        power_w=power_w,
        uncertainty_w=0.05,
        rail="VDD_IN",
        boundary=Boundary.MODULE_INPUT,
        meter="jetson 1",
    )
    return Baseline(start_mono_ns=int(start_s * 1e9), duration_s=1.0, rails=(rail,))


def report(
    run_id: str, number: int, *, start: Conditions, end: Conditions, card: str, **surroundings: Any
) -> PhaseReport:
    """A round of one second and 5 J of training, 100 s after the one before it."""
    reading = EnergyReading(
        energy_j=5.0,
        uncertainty_j=0.3,
        duration_s=1.0,
        rail="VDD_IN",
        boundary=Boundary.MODULE_INPUT,
        method="integrated",
        coverage=1.0,
        n_samples=10,
        longest_gap_s=0.1,
        meter="jetson 1",
    )
    return PhaseReport(
        ticket=Ticket(run_id=run_id, round=number, client_id="client-0"),
        attempt=0,
        phases=(
            PhaseRecord(
                phase=Phase.TRAIN,
                start_mono_ns=int((100 + 100 * number) * 1e9),
                duration_s=1.0,
                cpu_s=1.0,
                measured=(reading,),
                modelled=GONE,
            ),
        ),
        evaluation=None,
        clock_offset_s=0.0,
        clock_uncertainty_s=0.0,
        machine_card=card,
        surroundings=Surroundings(start=start, end=end, **surroundings),
    )


@dataclass(frozen=True)
class Named:
    name: str


@dataclass(frozen=True)
class Closed:
    round: int
    opened_wall_ns: int
    closed_wall_ns: int


@dataclass(frozen=True)
class ArmOf:
    """As much of `ArmResults` as is looked at."""

    arm: Named
    run_id: str
    reports: tuple[PhaseReport, ...]
    rounds: tuple[Closed, ...] = (Closed(0, 1000, 2000), Closed(1, 2000, 3000))

    @property
    def costs(self) -> dict[Ticket, object]:
        return {report.ticket: round_cost(report) for report in self.reports}


@dataclass(frozen=True)
class Row:
    card: str
    hello: dict[str, Any]


@dataclass(frozen=True)
class Folder:
    root: Path

    def attack(self, run_id: str) -> Path:
        return self.root / run_id


@dataclass(frozen=True)
class Run:
    """As much of `Results` as is looked at."""

    folder: Folder
    arms: tuple[ArmOf, ...]
    clients: tuple[Row, ...] = field(default=(Row("one", {"machine_card": CARD}),))


def two_arms(
    tmp_path: Path, *, second_c: float | None = 40.0, end: Conditions | None = None, **more: Any
) -> Run:
    cool = conditions(40.0, under_voltage=0, throttle_count=7)
    arms = []
    for name, heat, card in (("ann", 40.0, "one"), ("snn", second_c, more.pop("card", "one"))):
        start = cool if heat == 40.0 else conditions(heat, under_voltage=0, throttle_count=7)
        last = end if end and name == "snn" else start
        arms.append(ArmOf(Named(name), name, (report(name, 0, start=start, end=last, card=card),)))
    return Run(Folder(tmp_path), tuple(arms), **more)


def test_the_same_machine_in_the_same_state_is_fair(tmp_path: Path) -> None:
    assert fair_run(two_arms(tmp_path)) == []


def test_another_kernel_wheel_thread_or_governor_is_named_with_both_values() -> None:
    other = json.loads(json.dumps(CARD))
    other |= {"kernel": "6.12", "wheels": {"numpy": "2.4", "torch": "2.13"}}
    other["computing"]["threads"] = "4"
    other["frequencies"][0] |= {"governor": "powersave", "current_hz": [9, 9]}
    found = unlike_cards(CARD, other)
    assert found[0] == "kernel (6.6 and 6.12)"
    assert found[1] == "wheels torch (missing: not installed and 2.13)"
    assert found[2] == "computing threads (1 and 4)"
    assert "powersave" in found[3]
    assert len(found) == 4
    assert unlike_cards(CARD, {**CARD, "conditions": {}, "meter": "another"}) == []


def test_arms_on_other_machines_are_flagged(tmp_path: Path) -> None:
    clients = (
        Row("one", {"machine_card": CARD}),
        Row("two", {"machine_card": {**CARD, "power_mode": "15W"}}),
    )
    (said,) = fair_run(two_arms(tmp_path, card="two", clients=clients))
    assert said == (
        "client-0 was not the same machine in ann and snn: power_mode (nothing and 15W)."
    )


@pytest.mark.parametrize(("second_c", "is_flagged"), [(44.9, False), (45.1, True)])
def test_a_warm_start_is_flagged(tmp_path: Path, second_c: float, is_flagged: bool) -> None:
    said = fair_run(two_arms(tmp_path, second_c=second_c))
    assert bool(said) == is_flagged
    assert all("started ann and snn at 40 and 45 °C" in text for text in said)


@pytest.mark.parametrize(
    ("end", "source"),
    [
        (conditions(40.0, under_voltage=1, throttle_count=7), "under_voltage"),
        (conditions(40.0, under_voltage=0, throttle_count=8), "throttle_count"),
    ],
)
def test_throttling_is_flagged(tmp_path: Path, end: Conditions, source: str) -> None:
    (said,) = fair_run(two_arms(tmp_path, end=end))
    assert said.startswith(f"client-0 was held back in snn ({source}) in 1 round, first in round 0")


def word(bits: int) -> Conditions:
    return conditions(40.0, **parse_throttled(f"throttled={bits:#x}"))


@pytest.mark.parametrize(
    ("begin", "end", "sources"),
    [
        (0x0, 0x0, []),
        (0xF0000, 0xF0000, []),  # occurred before: nothing to do with this round
        (0x0, 0x20000, ["clock capped has occurred"]),
        (0x50000, 0x50001, ["under-voltage"]),
        (0x40004, 0x40000, ["throttled"]),  # over by the end, but it was so
        (0x0, 0x80008, ["soft temperature limit", "soft temperature limit has occurred"]),
    ],
)
def test_a_bit_that_is_up_or_appears_in_a_round_is_flagged_in_words(
    tmp_path: Path, begin: int, end: int, sources: list[str]
) -> None:
    run = two_arms(tmp_path)
    held = report("snn", 0, start=word(begin), end=word(end), card="one")
    said = fair_run(replace(run, arms=(run.arms[0], replace(run.arms[1], reports=(held,)))))
    assert [text.partition("(")[2].partition(")")[0] for text in said] == sources


def test_a_state_that_could_not_be_read_at_the_end_still_was_up_at_the_begin(
    tmp_path: Path,
) -> None:
    run = two_arms(tmp_path)
    held = report("snn", 0, start=word(0x4), end=conditions(40.0), card="one")
    (said,) = fair_run(replace(run, arms=(run.arms[0], replace(run.arms[1], reports=(held,)))))
    assert "(throttled)" in said


@pytest.mark.parametrize(
    ("wall_ns", "host", "is_flagged"),
    [(1500, "aaaa", True), (500, "aaaa", False), (3500, "aaaa", False), (1500, "bbbb", False)],
)
def test_a_live_attack_on_the_same_host_is_contamination(
    tmp_path: Path, wall_ns: int, host: str, is_flagged: bool
) -> None:
    (tmp_path / "ann").mkdir()
    line = json.dumps({"wall_ns": wall_ns, "host": host})
    (tmp_path / "ann" / "progress.jsonl").write_text(f"{line}\n")
    said = fair_run(two_arms(tmp_path))
    assert len(said) == 2 * is_flagged  # both arms had a round open then
    assert all(text.startswith("Contaminated") for text in said)


def test_clients_of_one_machine_whose_readings_do_not_say_so_are_named(tmp_path: Path) -> None:
    run = two_arms(tmp_path)
    (own,) = run.arms[0].reports
    other = replace(own, ticket=replace(own.ticket, client_id="client-1"))
    arms = (replace(run.arms[0], reports=(own, other)), run.arms[1])
    (said,) = fair_run(replace(run, arms=arms))
    assert said.startswith("client-0, client-1 ran on one machine in ann")
    shared = tuple(
        replace(phase, measured=tuple(replace(r, flags=("shared(2)",)) for r in phase.measured))
        for phase in own.phases
    )
    marked = tuple(replace(report, phases=shared) for report in (own, other))
    arms = (replace(run.arms[0], reports=marked), run.arms[1])
    assert fair_run(replace(run, arms=arms)) == []


def test_what_nobody_could_read_is_said(tmp_path: Path) -> None:
    blind = conditions(None)
    arms = tuple(
        ArmOf(Named(name), name, (report(name, 0, start=blind, end=blind, card="one"),))
        for name in ("ann", "snn")
    )
    (said,) = fair_run(Run(Folder(tmp_path), arms))
    assert said.startswith("No client could read temperatures or throttling")


def arm_with(*baselines: tuple[Baseline, ...]) -> ArmOf:
    calm = conditions(40.0)
    return ArmOf(
        Named("ann"),
        "ann",
        tuple(
            report("ann", number, start=calm, end=calm, card="one", baselines=found)
            for number, found in enumerate(baselines)
        ),
    )


def test_net_energy_takes_the_idle_power_around_the_round_off() -> None:
    pytest.importorskip("scipy")
    (net,) = net_energies([arm_with((idle(1, 2.0),), (), (idle(400, 2.2),))])
    assert isinstance(net, MeanEnergy)
    assert net.value_j == pytest.approx(5.0 - 2.1)
    meter_j, idle_j, drift_j = 0.3, 0.05, 0.1
    assert net.high_j - net.value_j == pytest.approx((meter_j**2 + idle_j**2 + drift_j**2) ** 0.5)


def test_without_a_baseline_on_either_side_there_is_no_net_energy() -> None:
    (net,) = net_energies([arm_with((idle(1, 2.0),), ())])
    assert net == Missing(why="no idle power was measured after it; set hardware.baseline_s")


def test_a_baseline_of_another_meter_is_none_of_this_one() -> None:
    rails = tuple(replace(rail, meter="rapl 1") for rail in idle(1, 2.0).rails)
    before = replace(idle(1, 2.0), rails=rails)
    (net,) = net_energies([arm_with((before,), (idle(400, 2.0),))])
    assert isinstance(net, Missing)
    assert "no idle power of jetson 1" in net.why
