"""The attacker from the tap to its answers: live, after restarts, and from the journal alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker import cli  # noqa: E402
from attacker.campaign import Campaign  # noqa: E402
from attacker.observations import AllOver, RunOver, Seen  # noqa: E402
from attacker.replay import is_finished, replay  # noqa: E402
from attacker.rpc import TapLine  # noqa: E402
from fedcore.disclosure import write_knowledge  # noqa: E402
from fedcore.errors import HandshakeError, RunError  # noqa: E402
from fedcore.health import Pulse  # noqa: E402
from fedcore.reconstructions import read_reconstructions  # noqa: E402
from fedcore.types import Knowledge  # noqa: E402
from fedcore.wire.channel import CertFiles  # noqa: E402

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[3]


def line(tapped, address: Callable[[], str | None], *, name: str = "attacker") -> TapLine:
    return TapLine(
        address=address,
        certs=CertFiles.of(tapped.certs, name),
        wants=lambda ticket: ticket.round in (0, 1),
        is_over=lambda: False,
    )


def listen(tap: TapLine, *, until: Callable[[object], bool] = lambda _: False) -> list[object]:
    """Events up to the wanted one, or to the end."""
    heard = []
    for event in tap.events(on_wait=lambda: None):
        heard.append(event)
        if until(event):
            break
    return heard


def same(one: object, other: object) -> bool:
    """Observations are equal, tensors bit for bit."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("weights", "tensors"):
            if list(a) != list(b) or any(a[n].tobytes() != b[n].tobytes() for n in a):
                return False
        elif a != b:
            return False
    return True


def campaign(tapped, *, waits: bool = False, **changes: object) -> Campaign:
    attacks = {arm.name: replace(arm.attack, **changes) for arm in tapped.experiment.arms}
    return Campaign(tapped.experiment, tapped.run, attacks=attacks, waits=waits, pulse=Pulse(None))


def test_the_journal_shows_what_the_tap_shows(finished) -> None:
    with finished.served() as address, line(finished, lambda: address) as tap:
        live = listen(tap)
    stored = list(replay(finished.run, finished.experiment, wants=lambda t: t.round in (0, 1)))
    assert len(live) == len(stored) == 2 * (2 * 3 + 1) + 1
    for a, b in zip(live, stored, strict=True):
        assert type(a) is type(b)
        if isinstance(a, Seen):
            assert a.ticket == b.ticket
            assert (a.observation is None) == (b.observation is None) == (a.ticket.round == 2)
            assert a.observation is None or same(a.observation, b.observation)
        else:
            assert a == b
    seen = {e.ticket: e.observation for e in live if isinstance(e, Seen) and e.observation}
    for ticket, observation in seen.items():
        granted = finished.experiment.arm_of(ticket.run_id).threat.defence_settings
        assert bool(observation.plan.defences) == granted


def test_nothing_is_lost_or_seen_twice_when_the_aggregator_restarts(tapped) -> None:
    tapped.accept_round("one", 0)
    addresses: list[str] = []
    with line(tapped, lambda: addresses[-1] if addresses else None) as tap:
        with tapped.served() as address:
            addresses.append(address)
            first = listen(tap, until=lambda e: e.ticket.client_id == "client-1")
        tapped.accept_round("one", 1)
        tapped.finish("one")
        tapped.accept_round("two", 0)
        tapped.finish("two")
        with tapped.served() as address:
            addresses.append(address)
            rest = listen(tap)
    updates = [e.ticket for e in [*first, *rest] if isinstance(e, Seen)]
    one, two = (tapped.experiment.run_id(arm) for arm in tapped.experiment.arms)
    assert [(t.run_id, t.round, t.client_id) for t in updates] == [
        (run_id, round_, client)
        for run_id, round_ in ((one, 0), (one, 1), (two, 0))
        for client in ("client-0", "client-1")
    ]
    assert rest[-1] == AllOver()


def test_a_clients_certificate_opens_no_tap(finished) -> None:
    with (
        finished.served() as address,
        line(finished, lambda: address, name="client-0") as tap,
        pytest.raises(HandshakeError, match="refuses"),
    ):
        listen(tap)


def test_hanging_up_does_not_wait_for_the_aggregator(tapped) -> None:
    with line(tapped, lambda: None):
        pass
    tapped.accept_round("one", 0)
    with tapped.served() as address, line(tapped, lambda: address) as tap:
        listen(tap, until=lambda e: isinstance(e, Seen))


def test_a_live_arm_is_attacked_before_the_run_is_over(finished) -> None:
    live = campaign(finished, when="live")
    events = replay(finished.run, finished.experiment, wants=live.wants)
    one = finished.experiment.run_id(finished.experiment.arms[0])
    consumed = []

    def watched():
        for event in events:
            consumed.append(event)
            yield event
            if RunOver(run_id=one) in consumed:
                return

    live.follow(watched())
    assert len(read_reconstructions(finished.run.attack(one))) == 4


def test_answers_hold_every_victim_and_the_truth_of_a_linear_model(finished) -> None:
    after = campaign(finished)
    after.follow(replay(finished.run, finished.experiment, wants=after.wants))
    for answers in after.answers().values():
        assert [(a.ticket.round, a.ticket.client_id) for a in answers] == [
            (r, c) for r in (0, 1) for c in ("client-0", "client-1")
        ]
        for answer in answers:
            inputs, label = finished.truth(answer.ticket)
            assert answer.labels[answer.chosen].tolist() == label.tolist()
            np.testing.assert_allclose(answer.candidates[answer.chosen], inputs, atol=1e-2)


def test_a_finished_arm_is_not_attacked_again_and_another_attack_is(finished) -> None:
    def attack(**changes: object) -> list[int]:
        after = campaign(finished, **changes)
        after.follow(replay(finished.run, finished.experiment, wants=after.wants))
        run_ids = map(finished.experiment.run_id, finished.experiment.arms)
        files = [finished.run.attack(r) / "reconstructions.json" for r in run_ids]
        return [file.stat().st_mtime_ns for file in files]

    written = attack()
    assert attack() == written
    assert all(a != b for a, b in zip(attack(restarts=1), written, strict=True))
    one = finished.experiment.run_id(finished.experiment.arms[0])
    before = read_reconstructions(finished.run.attack(one))
    (finished.run.attack(one) / "reconstructions.npz").unlink()  # as if it never ended
    attack(restarts=1)
    again = read_reconstructions(finished.run.attack(one))
    for a, b in zip(before, again, strict=True):
        assert np.array_equal(a.candidates, b.candidates)


def test_a_refused_attack_leaves_its_reason_for_every_victim(finished) -> None:
    refused = campaign(finished, options={"labels": "granted"})
    refused.follow(replay(finished.run, finished.experiment, wants=refused.wants))
    for answers in refused.answers().values():
        assert len(answers) == 4
        assert all("'labels'" in answer.failed for answer in answers)


def granting(tapped, **grants: bool) -> None:
    """One round under another threat model, with labels and more in the knowledge file."""
    arms = tuple(
        replace(arm, threat=replace(arm.threat, **grants)) for arm in tapped.experiment.arms
    )
    tapped.experiment = replace(tapped.experiment, arms=arms)
    for arm in tapped.experiment.arms:
        tapped.accept_round(arm.name, 0)
        tapped.finish(arm.name)


def disclose_everything(tapped, *, shift: int = 0) -> None:
    """Labels are the true ones, plus `shift`."""
    events = replay(tapped.run, tapped.experiment, wants=lambda _: False)
    tickets = [event.ticket for event in events if isinstance(event, Seen)]
    for run_id in {ticket.run_id for ticket in tickets}:
        told = {
            ticket: Knowledge(
                labels=(tapped.truth(ticket)[1] + shift) % 3, encoded_input=np.ones(3)
            )
            for ticket in tickets
            if ticket.run_id == run_id
        }
        write_knowledge(tapped.run.knowledge_file(run_id), told)


def test_granted_knowledge_is_awaited_and_used(tapped) -> None:
    granting(tapped, labels=True)
    asks = campaign(tapped, options={"labels": "granted"})
    with pytest.raises(RunError, match="disclose"):
        asks.follow(replay(tapped.run, tapped.experiment, wants=asks.wants))
    waiting = campaign(tapped, waits=True, options={"labels": "granted"})
    later = threading.Timer(0.5, disclose_everything, args=(tapped,))
    later.start()
    waiting.follow(replay(tapped.run, tapped.experiment, wants=waiting.wants))
    later.join()
    for answers in waiting.answers().values():
        assert [a.knowledge for a in answers] == [("labels",), ("labels",)]
        for answer in answers:
            assert answer.labels.tolist() == [tapped.truth(answer.ticket)[1].tolist()] * 2


def test_what_is_in_the_file_but_not_granted_is_not_used(tapped) -> None:
    granting(tapped, encoded_input=True)
    disclose_everything(tapped)
    after = campaign(tapped)
    after.follow(replay(tapped.run, tapped.experiment, wants=after.wants))
    for answers in after.answers().values():
        assert [a.knowledge for a in answers] == [(), ()]


def test_other_granted_knowledge_is_another_attack(tapped) -> None:
    granting(tapped, labels=True)
    found = []
    for shift in (0, 1):
        disclose_everything(tapped, shift=shift)
        after = campaign(tapped, options={"labels": "granted"})
        after.follow(replay(tapped.run, tapped.experiment, wants=after.wants))
        found.append([a.labels[0, 0] for answers in after.answers().values() for a in answers])
    assert [(label + 1) % 3 for label in found[0]] == found[1]


def test_altered_bytes_in_the_journal_are_refused(finished) -> None:
    victim = next(finished.run.journal.iterdir())
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match="altered"):
        list(replay(finished.run, finished.experiment, wants=lambda _: True))


def test_a_folder_is_finished_when_every_arm_is(tapped) -> None:
    assert not is_finished(tapped.run, tapped.experiment)
    tapped.accept_round("one", 0)
    tapped.finish("one")
    assert not is_finished(tapped.run, tapped.experiment)
    tapped.accept_round("two", 0)
    tapped.finish("two")
    assert is_finished(tapped.run, tapped.experiment)


def test_replay_on_the_command_line(finished, tmp_path, capsys) -> None:
    arguments = ["replay", "--run", str(finished.run.root), "--arm", "two"]
    arguments += ["--attack", "dlg", "--option", "labels=rule", "--option", "memory=5"]
    arguments += ["--restarts", "1", "--iterations", "7", "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--log", str(tmp_path / "log")]) == 0
    assert capsys.readouterr().out.startswith("two: dlg on 4 victims, 0 failed")
    two = finished.experiment.run_id(finished.experiment.arms[1])
    assert {a.n_iterations for a in read_reconstructions(tmp_path / "out" / two)} == {7}
    lines = (tmp_path / "out" / two / "progress.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert (last["run_id"], last["iteration"], last["total"], last["eta_s"]) == (two, 7, 7, 0.0)
    assert last["loss"] == pytest.approx(np.mean(last["losses"]))
    assert not finished.run.attack(two).exists()
    assert cli.main([*arguments, "--log", str(tmp_path / "log"), "--json"]) == 0
    (arm,) = json.loads(capsys.readouterr().out)["arms"]
    assert (arm["arm"], arm["victims"], arm["labels_from"]) == ("two", 4, ["rule"])


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--arm", "twi"], 2, "did you mean 'two'?"),
        (["--attack", "dlgg"], 2, "did you mean 'dlg'?"),
        (["--option", "memori=3"], 2, "did you mean 'memory'?"),
        (["--restarts", "0"], 2, "restarts"),
        (["--device", "cuda:70"], 2, "got 'cuda:70', expected"),
        (["--option", "labels=granted"], 1, "'labels'"),
    ],
)
def test_a_wrong_command_gets_one_line(finished, capsys, arguments, code, word) -> None:
    assert cli.main(["replay", "--run", str(finished.run.root), *arguments]) == code
    (line_,) = [
        text for text in capsys.readouterr().err.splitlines() if text.startswith("leakwatt-")
    ]
    assert word in line_


def test_a_folder_that_cannot_be_written_gets_one_line(finished, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("no folder")
    out = str(tmp_path / "file" / "out")
    assert cli.main(["replay", "--run", str(finished.run.root), "--out", out]) == 1
    (line_,) = [
        text for text in capsys.readouterr().err.splitlines() if text.startswith("leakwatt-")
    ]
    assert out in line_


def test_more_threads_than_cores_are_as_many_as_cores(finished, tmp_path) -> None:
    arguments = ["replay", "--run", str(finished.run.root), "--arm", "one", "--iterations", "2"]
    assert cli.main([*arguments, "--threads", "999999", "--out", str(tmp_path / "out")]) == 0
    assert torch.get_num_threads() <= os.cpu_count()


def attacker_process(tapped, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "attacker.cli", *arguments, "--run", str(tapped.run.root)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_comes_too_late_reads_the_journal(finished) -> None:
    where = ["--address-file", str(finished.run.root / "address"), "--certs", str(finished.certs)]
    with attacker_process(finished, "live", *where, "--threads", "1") as process:
        assert process.wait(60) == 0, process.stderr.read()
    for arm in finished.experiment.arms:
        assert len(read_reconstructions(finished.run.attack(finished.experiment.run_id(arm)))) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_process_ends_at_once_without_a_trace(tapped, number: signal.Signals) -> None:
    tapped.accept_round("one", 0)
    pulse = tapped.run.root / "pulse"
    with tapped.served() as address:
        where = ["--aggregator", address, "--certs", str(tapped.certs), "--pulse", str(pulse)]
        with attacker_process(tapped, "live", *where) as process:
            deadline = time.monotonic() + 60
            while not pulse.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(number)
            assert process.wait(30) == 128 + number
            assert "Traceback" not in process.stderr.read()
