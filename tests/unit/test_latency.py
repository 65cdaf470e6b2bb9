"""Latency: warm-up apart, quantiles only where there are values enough, nothing left uncounted."""

import pytest

from fedcore.energy import Phase, PhaseRecord, PhaseReport
from fedcore.types import Missing, Ticket
from testbed.latency import OTHER, latencies, uncovered_share

GONE = Missing(why="not looked at")


def report(number: int, *spans: tuple[Phase, float, float], client: str = "a") -> PhaseReport:
    return PhaseReport(
        ticket=Ticket(run_id="r", round=number, client_id=client),
        attempt=0,
        phases=tuple(
            PhaseRecord(
                phase=phase,
                start_mono_ns=round(start_s * 1e9),
                duration_s=end_s - start_s,
                cpu_s=0.0,
                measured=GONE,
                modelled=GONE,
            )
            for phase, start_s, end_s in spans
        ),
        evaluation=None,
        clock_offset_s=0.0,
        clock_uncertainty_s=0.0,
        machine_card="",
    )


def rounds(n: int, *, client: str = "a") -> list[PhaseReport]:
    """Training takes 100 s in the first round, then as many seconds as the round's number."""
    return [
        report(number, (Phase.TRAIN, 0.0, 100.0 if number == 0 else float(number)), client=client)
        for number in range(n)
    ]


def test_the_first_round_of_each_client_is_warm_up() -> None:
    found = {(f.client, f.phase): f for f in latencies([*rounds(4), *rounds(3, client="b")])}
    alone, both = found["a", "train"], found["", "train"]
    assert (alone.n, alone.n_warm_up, alone.median_s) == (3, 1, 2.0)
    assert (both.n, both.n_warm_up, both.median_s) == (5, 2, 2.0)


def test_quantiles_need_values() -> None:
    few, some, many = (latencies(rounds(n))[0] for n in (10, 11, 101))
    assert isinstance(few.p90_s, Missing)
    assert "9 rounds, 10 needed" in few.p90_s.why
    assert some.p90_s == pytest.approx(9.1)
    assert isinstance(some.p99_s, Missing)
    assert many.p99_s == pytest.approx(99.01)


def test_what_no_phase_covers_is_other() -> None:
    """Waiting is before the round; phases inside one another are not counted twice."""
    one = report(
        1,
        (Phase.IDLE, 0.0, 50.0),
        (Phase.RECEIVE, 50.0, 51.0),
        (Phase.TRAIN, 51.5, 53.0),
        (Phase.ENCODE, 51.6, 52.0),
        (Phase.SUBMIT, 53.0, 54.0),
        (Phase.SUBMIT, 54.5, 60.0),
    )
    assert uncovered_share([one]) == pytest.approx(1.0 / 10.0)
    found = {f.phase: f for f in latencies([report(0), one]) if not f.client}
    assert found[OTHER].median_s == pytest.approx(1.0)
    assert found["submit"].median_s == pytest.approx(6.5)


def test_no_phases_are_no_round() -> None:
    assert isinstance(uncovered_share([report(0)]), Missing)
