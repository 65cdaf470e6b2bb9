"""Whole runs over real gRPC: two arms, the tap, quorum, rejoining."""

import hashlib
import json
import signal
import threading
import time

import grpc
import numpy as np
import pytest

from aggregator.cli import main
from fedcore.strict import canonical_json
from fedcore.tensors import unpack_weights
from fedcore.types import Ticket
from fedcore.update_blob import unpack_update
from fedcore.wire.messages import Hello, hello_to_proto
from protos.v1 import rounds_pb2

TWO_ARMS = {
    "schedule": {"rounds": 3, "evaluate_every": 2, "quorum": 2},
    "arms": [
        {
            "name": "ann",
            "training": {"update": "delta"},
            "defences": [{"name": "clip", "options": {"max_norm": 2.0}}],
        },
        {
            "name": "snn",
            "strategy": {"name": "fedadam"},
            "codec": {"name": "int8"},
            "defences": [{"name": "clip", "options": {"max_norm": 2.0}}],
            "threat": {"defence_settings": True},
        },
    ],
}


def test_two_arms_run_to_their_end(make_world):
    world = make_world(**TWO_ARMS)
    process = world.start()
    world.start_clients()
    world.finish(process)
    experiment = world.experiment
    assert all(c.farewell and c.farewell.finished for c in world.clients)
    with world.store() as store:
        assert [run.arm for run in store.runs()] == ["ann", "snn"]
        assert store.audit() == []
        for arm in experiment.arms:
            run_id = experiment.run_id(arm)
            assert store.is_finished(run_id)
            assert [r.round for r in store.rounds(run_id)] == [0, 1, 2, 3]
            assert [r.n_accepted for r in store.rounds(run_id)] == [3, 3, 3, 0]
            plans = [store.plan(run_id, round=r).parsed() for r in range(4)]
            assert [p.train for p in plans] == [True, True, True, False]
            assert [p.evaluate for p in plans] == [True, False, True, True]
            for update in store.updates(run_id):
                blob = (world.run.journal / update.sha256).read_bytes()
                assert hashlib.sha256(blob).hexdigest() == update.sha256
            evaluated = {ticket.round for ticket, _ in store.evaluations(run_id)}
            assert {0, 2, 3} >= evaluated >= {3}
            assert all(r.phases[0].measured.why == "no meter here" for r in store.reports(run_id))


def test_the_mean_is_the_mean(make_world):
    """Oracle: the journal's updates, averaged by hand in the plainest way."""
    world = make_world(**{**TWO_ARMS, "arms": TWO_ARMS["arms"][:1]})
    process = world.start()
    world.start_clients()
    world.finish(process)
    run_id = world.experiment.run_id(world.experiment.arms[0])
    with world.store() as store:
        for closed in store.rounds(run_id)[:-1]:
            plan = store.plan(run_id, round=closed.round)
            before = unpack_weights((world.run.artefacts / plan.weights).read_bytes())
            after = unpack_weights((world.run.artefacts / closed.weights).read_bytes())
            schema = {name: t.shape for name, t in before.items()}
            updates = [
                unpack_update(
                    (world.run.journal / u.sha256).read_bytes(),
                    schema=schema,
                    plan_digest=plan.digest,
                    codec=plan.parsed().codec,
                )
                for u in store.accepted(run_id, round=closed.round)
            ]
            total = sum(u.n_examples for u in updates)
            for name, tensor in before.items():
                mean = sum(u.n_examples * u.tensors[name].astype(float) for u in updates) / total
                np.testing.assert_allclose(after[name], tensor + mean, rtol=1e-6, atol=1e-7)


def test_the_tap_shows_every_accepted_byte(make_world, tools):
    world = make_world(**TWO_ARMS)
    process = world.start("--grace-s", "20")
    world.start_clients()
    blobs, plans, over = {}, {}, []
    with tools["Peer"](world, "attacker") as attacker:
        for event in attacker.tap.Watch(tools["TapRequest"](cursor=0), timeout=60):
            kind = event.WhichOneof("event")
            if kind == "capture":
                header = event.capture.header
                current = blobs[header.sha256] = bytearray()
                plans[header.ticket.run_id] = json.loads(event.capture.plan)
            elif kind == "chunk":
                assert event.chunk.offset == len(current)
                current += event.chunk.data
            else:
                over.append(kind)
    world.finish(process)
    assert over == ["run_over", "run_over", "all_over"]
    with world.store() as store:
        for arm in world.experiment.arms:
            run_id = world.experiment.run_id(arm)
            assert len(store.updates(run_id)) == 9
            shown = canonical_json(plans[run_id]["defences"]) != b"[]"
            assert shown == arm.threat.defence_settings
            for update in store.updates(run_id):
                blob = bytes(blobs.pop(update.sha256))
                assert blob == (world.run.journal / update.sha256).read_bytes()
    assert not blobs


def test_a_cursor_skips_what_was_seen(make_world, tools):
    world = make_world(**TWO_ARMS)
    process = world.start("--grace-s", "20")
    world.start_clients()
    with tools["Peer"](world, "attacker") as attacker:
        events = attacker.tap.Watch(tools["TapRequest"](cursor=10), timeout=60)
        seen = [e.sequence for e in events if e.WhichOneof("event") == "capture"]
    world.finish(process)
    assert seen == list(range(10, 19))


def test_only_artefacts_of_plans_can_be_downloaded(make_world, tools, until):
    world = make_world(**TWO_ARMS)
    world.start()
    client = world.client("client-0")
    until(lambda: any(m.WhichOneof("message") == "round_start" for m in client.seen))
    initial = json.loads(world.run.initial_file.read_text())["ann"]
    with world.store() as store, tools["Peer"](world, "attacker") as attacker:
        until(lambda: store.updates(world.experiment.run_id(world.experiment.arms[0])))
        update = store.updates(world.experiment.run_id(world.experiment.arms[0]))[0]
        request = tools["ArtefactRequest"]
        got = b"".join(c.data for c in attacker.federation.Download(request(sha256=initial)))
        assert hashlib.sha256(got).hexdigest() == initial
        for forbidden in (update.sha256, "../store.sqlite", ""):
            with pytest.raises(grpc.RpcError) as refused:
                list(attacker.federation.Download(request(sha256=forbidden)))
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_graphs_of_an_arm_stand_in_its_plans_and_can_be_downloaded(make_world, tools, until):
    world = make_world(**TWO_ARMS)
    graph = b"a graph"
    sha256 = hashlib.sha256(graph).hexdigest()
    (world.run.artefacts / sha256).write_bytes(graph)
    world.run.graphs_file.write_text(json.dumps({"ann": {"training": sha256}}))
    world.start()
    with tools["Peer"](world, "attacker") as attacker, world.store() as store:
        ann = world.experiment.run_id(world.experiment.arms[0])
        until(lambda: store.plan(ann, round=0))
        assert store.plan(ann, round=0).parsed().graphs == {"training": sha256}
        request = tools["ArtefactRequest"](sha256=sha256)
        assert b"".join(c.data for c in attacker.federation.Download(request)) == graph


def test_an_arm_asks_only_the_clients_that_take_part(make_world):
    few, all_of_them = (
        TWO_ARMS["arms"][0] | {"clients": ["client-0", "client-2"]},
        TWO_ARMS["arms"][1],
    )
    world = make_world(**{**TWO_ARMS, "arms": [few, all_of_them]})
    process = world.start()
    world.start_clients()
    world.finish(process)
    with world.store() as store:
        for arm, n_clients in zip(world.experiment.arms, (2, 3), strict=True):
            run_id = world.experiment.run_id(arm)
            asked = [
                c
                for c in world.experiment.client_ids
                if store.last_attempt(Ticket(run_id=run_id, round=1, client_id=c)) is not None
            ]
            assert len(asked) == n_clients == len(store.accepted(run_id, round=1))


def test_a_lost_client_is_seen_and_the_round_closes_without_it(make_world, until):
    """Client 2 leaves round 1 without an answer; the quorum closes it; the client comes back."""
    schedule = {"rounds": 6, "quorum": 2, "wait_for_all": False, "deadline_s": 60.0}
    world = make_world(schedule=schedule)
    run_id = world.experiment.run_id(world.experiment.arms[0])
    process = world.start()

    back = threading.Event()

    def dies_in_round_1(client, peer, asked):
        if asked.plan.round == 1:
            client.gone.set()
            raise FileNotFoundError  # leaves the stream at once
        client.answer_honestly(peer, asked)

    def waits_in_round_4(client, peer, asked):
        if asked.plan.round == 4:
            assert back.wait(30)
        client.answer_honestly(peer, asked)

    def is_back(client, peer, asked):
        back.set()
        client.answer_honestly(peer, asked)

    world.client("client-0", waits_in_round_4)
    world.client("client-1")
    dying = world.client("client-2", dies_in_round_1)
    until(lambda: not dying.is_alive())
    world.client("client-2", is_back)
    world.finish(process)
    with world.store() as store:
        accepted = [row.n_accepted for row in store.rounds(run_id)]
        kinds = [e.kind for e in store.events() if e.fields.get("client") == "client-2"]
    assert accepted[0] == 3
    assert accepted[1] == 2
    assert accepted[4] == 3
    assert kinds[:3] == ["client-joined", "client-lost", "client-joined"]


def test_three_missed_heartbeats_lose_a_client(make_world, until):
    world = make_world(schedule={"rounds": 1, "quorum": 2, "wait_for_all": False})
    world.start("--heartbeat-s", "0.3")
    client = world.client("client-0", lambda *_: None)
    until(lambda: any(m.HasField("round_start") for m in client.seen))
    client.silent.set()
    with world.store() as store:
        until(lambda: any(e.kind == "client-lost" for e in store.events()))


def test_an_aggregator_that_was_stopped_itself_loses_nobody(make_world, until):
    world = make_world(n_clients=2, schedule={"rounds": 1, "quorum": 2})
    process = world.start("--heartbeat-s", "0.5")
    client = world.client("client-0")
    until(lambda: any(m.HasField("round_start") for m in client.seen))
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)  # five heartbeats
    process.send_signal(signal.SIGCONT)
    world.client("client-1")
    world.finish(process)
    with world.store() as store:
        kinds = [e.kind for e in store.events() if e.kind.startswith("client-")]
    assert kinds[:2] == ["client-joined", "client-joined"]


def test_a_clock_that_stops_stops_the_run_with_a_word(make_world, tmp_path):
    """The tick touches the pulse's file, whose folder is missing here."""
    world = make_world(schedule={"rounds": 1, "quorum": 2})
    process = world.start("--pulse", str(tmp_path / "missing" / "pulse"))
    log = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "clock stopped" in log.splitlines()[-1]


def test_a_quorum_that_never_comes_stops_the_run_with_a_word(make_world):
    world = make_world(schedule={"rounds": 1, "quorum": 2, "deadline_s": 1.0})
    process = world.start()
    client = world.client("client-0")
    log = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "nothing came from client-1, client-2" in log.splitlines()[-1]
    assert client.farewell is not None
    assert not client.farewell.finished
    with world.store() as store:
        assert [row.reason for row in store.audit()] == ["deadline-extended"] * 3


def test_a_second_connection_replaces_the_first(make_world, until):
    world = make_world(schedule={"rounds": 1, "quorum": 2})
    process = world.start()
    first = world.client("client-0", lambda *_: None)
    until(lambda: any(m.HasField("round_start") for m in first.seen))
    first.gone.set()
    world.start_clients()
    world.finish(process)


def test_a_client_without_the_codec_is_refused_in_one_line(make_world, tools):
    world = make_world(codec={"name": "int8"})
    world.start()
    with tools["Peer"](world, "client-0") as peer:
        hello = hello_to_proto(Hello(client_id="client-0", codecs=("f32",)))
        with pytest.raises(grpc.RpcError) as refused:
            list(peer.federation.Join(iter([rounds_pb2.ClientMessage(hello=hello)])))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "int8" in refused.value.details()
    with world.store() as store:
        assert store.audit()[0].reason == "handshake"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_that_cannot_be_is_refused_in_one_line(capsys, seconds):
    with pytest.raises(SystemExit) as refused:
        main(["--run", "x", "--certs", "x", f"--heartbeat-s={seconds}"])
    assert refused.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f"--heartbeat-s: '{seconds}' is not a number of seconds > 0")
