"""The store and the journal: what is written is read back, and strangers are turned away."""

import contextlib
import hashlib
import sqlite3

import pytest

from aggregator.journal import BlobFolder
from aggregator.records import SCHEMA_VERSION, StoreReader
from aggregator.store import Store
from fedcore.conditions import Conditions
from fedcore.energy import (
    Boundary,
    EnergyReading,
    Evaluation,
    ModelledEnergy,
    Phase,
    PhaseRecord,
    PhaseReport,
    Surroundings,
)
from fedcore.errors import RunError, StorageError
from fedcore.types import Missing, Ticket
from fedcore.wire.messages import Hello

TICKET = Ticket(run_id="run", round=0, client_id="client-0")
READING = EnergyReading(
    energy_j=1.5,
    uncertainty_j=0.1,
    duration_s=2.0,
    rail="package-0",
    boundary=Boundary.CPU_PACKAGE,
    method="counter",
    coverage=0.9,
    n_samples=12,
    longest_gap_s=0.3,
    meter="rapl 1",
    flags=("shared(4)",),
)
MODELLED = ModelledEnergy(energy_j=2.0, low_j=1.0, high_j=3.0, model="table", inputs="1 CPU-s")


def phase(which, measured, modelled):
    return PhaseRecord(
        phase=which,
        start_mono_ns=7,
        duration_s=0.5,
        cpu_s=0.25,
        measured=measured,
        modelled=modelled,
    )


CONDITIONS = Conditions(
    temperatures_c={"thermal_zone0": 39.5},
    throttling=Missing(why="no counters"),
    clock_hz=(1_500_000_000, 2_400_000_000),
)
REPORT = PhaseReport(
    ticket=TICKET,
    attempt=1,
    phases=(
        phase(Phase.TRAIN, (READING,), MODELLED),
        phase(Phase.IDLE, Missing(why="no sensor"), Missing(why="no table")),
    ),
    evaluation=Evaluation(n_correct=3, n_examples=4, mean_loss=0.5),
    clock_offset_s=0.25,
    clock_uncertainty_s=0.001,
    machine_card="ab" * 32,
    surroundings=Surroundings(start=CONDITIONS, end=CONDITIONS),
)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    yield store
    store.close()


def test_a_phase_report_comes_back_as_it_was_and_counts_once(store, tmp_path):
    assert store.save_report(REPORT)
    assert not store.save_report(REPORT)
    with StoreReader(tmp_path / "store.sqlite") as reader:
        assert reader.reports("run") == [REPORT]
        assert reader.evaluations("run") == [(TICKET, REPORT.evaluation)]
        assert reader.reporters("run", round=0) == {"client-0"}


def test_attempts_are_counted_per_ticket(store):
    other = Ticket(run_id="run", round=0, client_id="client-1")
    assert [store.ask(t) for t in (TICKET, other, TICKET, TICKET)] == [0, 0, 1, 2]
    assert store.last_attempt(TICKET) == 2


def test_a_handshake_is_kept_per_machine_card(store):
    for load in (1, 2, 2):
        store.greet(Hello(client_id="client-0", machine_card={"load": load}))
    assert [c.hello["machine_card"] for c in store.clients()] == [{"load": 1}, {"load": 2}]


def test_a_second_aggregator_is_turned_away(store, tmp_path):
    with pytest.raises(RunError, match="another aggregator is serving this run"):
        Store(tmp_path / "store.sqlite")


def test_a_store_of_a_newer_version_is_refused_in_one_line(tmp_path):
    path = tmp_path / "store.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    for opened in (Store, StoreReader):
        with pytest.raises(RunError, match=f"schema {SCHEMA_VERSION + 1}"):
            opened(path)


def test_without_a_store_the_reader_says_so(tmp_path):
    with pytest.raises(RunError, match="has the run started"):
        StoreReader(tmp_path / "none.sqlite")


@pytest.mark.parametrize("survives_power_loss", [False, True])
def test_a_blob_is_there_whole_or_not_at_all(tmp_path, survives_power_loss):
    folder = BlobFolder(tmp_path / "blobs", survives_power_loss=survives_power_loss)
    sha256 = folder.put(b"content")
    assert sha256 == hashlib.sha256(b"content").hexdigest()
    assert folder.read(sha256) == b"content"
    half = folder.incoming()
    half.write([b"half"])
    assert folder.put(b"content") == sha256
    again = BlobFolder(tmp_path / "blobs")  # as after a kill: what is half written goes
    assert [file.name for file in again.root.iterdir()] == [sha256]
    half.close()
    with pytest.raises(RunError, match="the run needs it"):
        folder.read("0" * 64)


def test_what_is_remembered_is_what_lies_in_the_folder(tmp_path):
    folder = BlobFolder(tmp_path / "blobs")
    blobs = [bytes([n]) * 10 for n in range(40)]
    for blob in blobs:
        assert folder.put(blob) == hashlib.sha256(blob).hexdigest()
    for blob in blobs:
        sha256 = hashlib.sha256(blob).hexdigest()
        assert folder.read(sha256) == blob == folder.path(sha256).read_bytes()
        assert folder.read_if_small(sha256, n_bytes=10) == blob
        assert folder.read_if_small(sha256, n_bytes=9) is None
    with pytest.raises(RunError, match="the run needs it"):
        folder.read_if_small("0" * 64, n_bytes=10)


def ask_and_fail(store):
    with store.together():
        assert store.ask(TICKET) == 0
        assert store.ask(TICKET) == 1
        for _ in range(2):  # the second time it is known
            store.open_round("run", round=0, plan=b"", plan_digest="", weights="")


def test_what_is_written_together_is_kept_together_or_not_at_all(tmp_path):
    with contextlib.closing(Store(tmp_path / "store.sqlite")) as store:
        with pytest.raises(sqlite3.IntegrityError):
            ask_and_fail(store)
        assert store.last_attempt(TICKET) is None
        with StoreReader(tmp_path / "store.sqlite") as reader:
            with store.together():
                assert store.ask(TICKET) == 0
                store.event("asked")
                assert reader.last_attempt(TICKET) is None
            assert reader.last_attempt(TICKET) == 0
            assert [event.kind for event in reader.events()] == ["asked"]


def test_a_reader_sees_a_whole_store_or_none_while_it_is_made(tmp_path, monkeypatch):
    """Looks before every call that creates something, as a display that polls would."""
    path = tmp_path / "store.sqlite"
    seen = []

    def look(_statement=None):
        if path.exists():
            with StoreReader(path) as reader:
                seen.append(reader.runs())

    class Watched(sqlite3.Connection):
        def execute(self, *arguments):
            look()
            self.set_trace_callback(look)
            return super().execute(*arguments)

    connect = sqlite3.connect

    def watched(database, **options):
        is_reader = options.get("uri", False)
        return connect(database, **options, **({} if is_reader else {"factory": Watched}))

    monkeypatch.setattr("aggregator.store.sqlite3.connect", watched)
    store = Store(path)
    look()
    store.close()
    assert seen
    assert not any(seen)


def test_a_creation_that_was_killed_leaves_nothing_that_matters(tmp_path):
    for suffix in ("", "-journal", "-wal", "-shm"):
        (tmp_path / f".store.sqlite-new{suffix}").write_bytes(b"half of it")
    store = Store(tmp_path / "store.sqlite")
    store.start_run("run", arm="ann")
    assert [row.arm for row in store.runs()] == ["ann"]
    store.close()
    assert {file.name for file in tmp_path.iterdir()} == {"store.sqlite", "store.lock"}


def test_a_full_disk_is_named_even_where_sqlite_rolled_back_itself(store):
    (n_pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {n_pages + 4}")
    store._db.execute("PRAGMA cache_size = 2")
    with pytest.raises(StorageError, match="full; nothing accepted is lost"):
        store.event("much", text="x" * 200_000)
    store.event("little")
    assert store.latest_event() == "little"


def test_the_attacker_reads_the_same_schema() -> None:
    """It may not import the aggregator, so that it names the version itself."""
    pytest.importorskip("torch")
    from attacker import replay

    assert replay._SCHEMA_VERSION == SCHEMA_VERSION
