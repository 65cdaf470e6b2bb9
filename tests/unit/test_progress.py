"""Progress, asked for every second, says what the slow way over all facts says."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.records import StoreReader
from aggregator.store import Store
from fedcore.config import Arm, parse_experiment
from fedcore.energy import Evaluation, PhaseReport
from fedcore.errors import RunError
from fedcore.layout import RunFolder
from fedcore.seeds import stream
from fedcore.types import Ticket
from fedcore.wire.messages import UploadHeader
from testbed.progress import read_progress

EXPERIMENT = parse_experiment(
    {"name": "halfway", "schedule": {"rounds": 6}, "arms": [{"name": "one"}, {"name": "two"}]},
    where="test",
)
ONE, TWO = EXPERIMENT.arms


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.write_experiment(EXPERIMENT)
    return run


def evaluated(ticket: Ticket, *, attempt: int, n_correct: int, n_examples: int) -> PhaseReport:
    return PhaseReport(
        ticket=ticket,
        attempt=attempt,
        phases=(),
        evaluation=Evaluation(n_correct=n_correct, n_examples=n_examples, mean_loss=1.0),
        clock_offset_s=0.0,
        clock_uncertainty_s=0.0,
        machine_card="",
    )


def fill(store: Store, arm: Arm, *, n_rounds: int, seed: int) -> None:
    """Rounds of which some are evaluated, some of those twice, and one refusal each."""
    run_id, rng = EXPERIMENT.run_id(arm), stream(seed, "progress")
    store.start_run(run_id, arm=arm.name)
    for number in range(n_rounds):
        for client_id in EXPERIMENT.client_ids:
            ticket = Ticket(run_id=run_id, round=number, client_id=client_id)
            header = UploadHeader(
                ticket=ticket, attempt=0, plan_digest="d", n_bytes=1, sha256=str(ticket)
            )
            store.accept(header, n_examples=1, kind="gradient")
            if number % 2 == 0:
                for attempt in range(int(rng.integers(1, 4))):
                    n_examples = int(rng.integers(1, 50))
                    n_correct = int(rng.integers(0, n_examples + 1))
                    store.save_report(
                        evaluated(
                            ticket, attempt=attempt, n_correct=n_correct, n_examples=n_examples
                        )
                    )
        store.refuse(peer="client-0", claimed="x", reason="late", message="too late")
        store.close_round(run_id, round=number, weights="w", state="s", n_accepted=4)
        store.event("round closed", round=number)


def slow_accuracy(reader: StoreReader, run_id: str) -> float | None:
    evaluations = reader.evaluations(run_id)
    last = max((ticket.round for ticket, _ in evaluations), default=None)
    found = [e for ticket, e in evaluations if ticket.round == last]
    return sum(e.n_correct for e in found) / sum(e.n_examples for e in found) if found else None


@pytest.mark.parametrize("seed", range(5))
def test_the_quick_count_equals_the_slow_one(run: RunFolder, seed: int) -> None:
    with closing(Store(run.store_file)) as store:
        fill(store, ONE, n_rounds=5, seed=seed)
        fill(store, TWO, n_rounds=2, seed=seed + 100)
        progress = read_progress(run)
    with StoreReader(run.store_file) as reader:
        for arm, shown in zip(EXPERIMENT.arms, progress.arms, strict=True):
            run_id = EXPERIMENT.run_id(arm)
            assert shown.closed == len(reader.rounds(run_id))
            assert shown.updates == len(reader.updates(run_id))
            assert shown.accuracy == slow_accuracy(reader, run_id)
        assert progress.refused == len(reader.audit())
        assert progress.latest == reader.events()[-1].kind


def test_before_the_first_round_nothing_is_claimed(run: RunFolder) -> None:
    assert read_progress(run).latest == "not started"
    Store(run.store_file).close()
    progress = read_progress(run)
    assert progress.latest == "started"
    assert [(a.closed, a.updates, a.accuracy) for a in progress.arms] == [(0, 0, None)] * 2
    assert progress.headline == "arm one: round 0 of 7"


def test_a_store_that_cannot_be_read_is_not_called_unstarted(run: RunFolder) -> None:
    run.store_file.write_bytes(b"no database, and long enough to have a header" * 10)
    with pytest.raises(RunError, match=r"store\.sqlite"):
        read_progress(run)


def test_a_progress_line_that_is_just_being_written_is_passed_over(run: RunFolder) -> None:
    folder = run.attack(EXPERIMENT.run_id(ONE))
    folder.mkdir(parents=True)
    lines = [json.dumps({"iteration": n, "loss": 1 / (n + 1)}) for n in range(3)]
    (folder / "progress.jsonl").write_text("\n".join([*lines, '{"iterat']))
    shown = read_progress(run).arms[0]
    assert (shown.attack_done, shown.attack_loss) == (2, pytest.approx(1 / 3))
    assert read_progress(run).as_table()["arms"][0]["attack_done"] == 2


def test_a_client_is_connected_until_it_is_lost(run: RunFolder) -> None:
    with closing(Store(run.store_file)) as store:
        for kind, client_id in (
            ("client-joined", "client-0"),
            ("client-joined", "client-1"),
            ("client-lost", "client-0"),
            ("client-lost", "client-1"),
            ("client-joined", "client-1"),
        ):
            store.event(kind, client=client_id)
    assert read_progress(run).connected == 1
