"""Killed, stopped and starved: nothing accepted is lost, and the model comes out bit for bit."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

ARMS = {
    "n_clients": 3,
    "schedule": {"rounds": 3, "evaluate_every": 5, "quorum": 2},
    "arms": [
        {"name": "ann", "strategy": {"name": "fedadam"}},
        {"name": "snn", "strategy": {"name": "median"}, "training": {"update": "delta"}},
    ],
}


@pytest.fixture(scope="module")
def calm(world_maker, tmp_path_factory):
    """The final weights of an undisturbed run."""
    with world_maker(tmp_path_factory.mktemp("calm")) as make:
        world = make(**ARMS)
        process = world.start()
        world.start_clients()
        world.finish(process)
        return world.final_weights()


def test_killed_in_the_middle_of_every_round_it_ends_with_the_same_bits(calm, make_world, until):
    world = make_world(**ARMS)
    held: set[tuple[str, int]] = set()

    def hold_once(client, peer, asked):
        """Keep each training round open until the aggregator was killed in it."""
        key = (asked.plan.run_id, asked.plan.round)
        if asked.plan.train and key not in held:
            held.add(key)
            return
        client.answer_honestly(peer, asked)

    process = world.start()
    world.client("client-0")
    world.client("client-1")
    world.client("client-2", hold_once)
    kept: dict[tuple[str, int], list[str]] = {}
    for arm in world.experiment.arms:
        run_id = world.experiment.run_id(arm)
        for number in range(arm.schedule.rounds):
            with world.store() as store:
                until(lambda n=number, r=run_id, s=store: len(s.accepted(r, round=n)) == 2)
                until(lambda n=number, r=run_id: (r, n) in held)
                rows = store.accepted(run_id, round=number)
                kept[run_id, number] = [row.sha256 for row in rows]
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = world.start()
    world.finish(process)
    assert world.final_weights() == calm
    with world.store() as store:
        for (run_id, number), hashes in kept.items():
            assert [r.sha256 for r in store.accepted(run_id, round=number)][:2] == hashes
        assert store.audit() == []


KILLED = """
import os, signal, sys
from pathlib import Path
import aggregator.cli
from aggregator.journal import IncomingBlob
from aggregator.store import Store

real = {call}
calls = []

def killed(*arguments, **options):
    calls.append(arguments)
    if {before} and len(calls) == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    answer = real(*arguments, **options)
    if len(calls) == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer

{call} = killed
sys.exit(aggregator.cli.main())
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("IncomingBlob.keep", 3),  # strategies' states are kept before: one per arm
        ("Store.open_round", 2),
        ("Store.ask", 4),
        ("Store.accept", 2),  # after it: committed, and not acknowledged
        ("Store.save_report", 2),
        ("Store.close_round", 2),
        ("Store.finish_run", 1),
    ],
)
def test_killed_at_any_instant_it_ends_with_the_same_bits(calm, make_world, call, nth, when):
    world = make_world(**ARMS)
    process = world.start(code=KILLED.format(call=call, nth=nth, before=when == "before"))
    world.start_clients()
    assert process.wait(30) == -signal.SIGKILL
    with world.store() as store:
        runs = [world.experiment.run_id(arm) for arm in world.experiment.arms]
        kept = {run: [u.sha256 for u in store.updates(run)] for run in runs}
    world.finish(world.start())
    assert world.final_weights() == calm
    with world.store() as store:
        for run in runs:
            found = [u.sha256 for u in store.updates(run)]
            assert found[: len(kept[run])] == kept[run]
            assert len(found) == 9
        assert store.audit() == []
    assert not list(world.run.journal.glob(".*"))


def test_stopped_by_sigterm_it_says_so_and_goes_on_later(make_world, until):
    world = make_world(**ARMS)
    process = world.start("--grace-s", "600")  # nobody waits for client 2, which never came
    waiting = world.client("client-0")
    world.client("client-1")
    until(lambda: any(m.HasField("round_start") for m in waiting.seen))
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + signal.SIGTERM, log
    until(lambda: waiting.farewell is not None)
    assert not waiting.farewell.finished
    process = world.start()
    world.client("client-2")
    world.finish(process)


def fill_and_free(world, until, *, process, free):
    """Let a run hit a full disk, see it stop with a clear word, free the disk, see it finish."""
    world.start_clients()
    log = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "make room and start the same run again" in log.splitlines()[-1]
    with world.store() as store:
        kept = [
            u.sha256
            for arm in world.experiment.arms
            for u in store.updates(world.experiment.run_id(arm))
        ]
    for sha256 in kept:
        assert (world.run.journal / sha256).stat().st_size > 0
    free()
    for client in world.clients:
        client.gone.set()
        client.join(30)
    world.clients.clear()
    process = world.start()
    world.start_clients()
    world.finish(process)
    with world.store() as store:
        after = [
            u.sha256
            for arm in world.experiment.arms
            for u in store.updates(world.experiment.run_id(arm))
        ]
    assert after[: len(kept)] == kept


def test_a_file_that_may_not_grow_stops_the_run_and_loses_nothing(calm, make_world, until):
    """The store's log hits the process's limit on file sizes, which SQLite sees as a full disk."""
    world = make_world(**ARMS)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    process = world.start(preexec_fn=limited)
    fill_and_free(world, until, process=process, free=lambda: None)
    assert world.final_weights() == calm


def test_a_full_disk_stops_the_run_and_loses_nothing(calm, make_world, until, tmp_path):
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        world = make_world(folder=folder / "run", **ARMS)
        process = world.start()
        ballast = folder / "ballast"
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        ballast.write_bytes(b"\0" * (free - 80_000))
        fill_and_free(world, until, process=process, free=ballast.unlink)
        assert world.final_weights() == calm
        world.close()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_stopped_watcher_delays_nothing(make_world, tools, until):
    """A watcher process that is stopped while it holds the tap: rounds go on, the end too."""
    world = make_world(**ARMS)
    process = world.start("--grace-s", "0.5")
    script = (
        "import sys, grpc; from pathlib import Path;"
        "from fedcore.wire.channel import CertFiles, channel_options;"
        "from protos.v1 import tap_pb2, tap_pb2_grpc;"
        "cert = CertFiles.of(Path(sys.argv[2]), 'attacker').channel_credentials();"
        "channel = grpc.secure_channel(sys.argv[1], cert, options=channel_options());"
        "events = tap_pb2_grpc.TapStub(channel).Watch(tap_pb2.TapRequest());"
        "[print(e.WhichOneof('event'), flush=True) for e in events]"
    )
    watcher = subprocess.Popen(
        [sys.executable, "-c", script, world.address(), str(world.certs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    world.client("client-0")
    assert watcher.stdout.readline().strip() == "capture"
    watcher.send_signal(signal.SIGSTOP)
    try:
        started_s = time.monotonic()
        world.client("client-1")
        world.client("client-2")
        world.finish(process)
        assert time.monotonic() - started_s < 60
    finally:
        watcher.kill()
        watcher.communicate()


def test_a_second_aggregator_is_turned_away_and_touches_nothing(make_world):
    """Starting it clears up what a killed one left half done; it must not while one is at work."""
    world = make_world(**ARMS)
    first = world.start()
    half = world.run.journal / ".partial-of-the-first"
    half.write_bytes(b"half an update")
    second = world.start()
    log = second.communicate(timeout=30)[1]
    assert second.returncode == 1
    assert "another aggregator is serving this run" in log
    assert half.exists()
    assert first.poll() is None
