"""Whoever reads every file of the run and everything on the wire learns no truth and no draw.

The attacker here is stronger than ours: it may parse, decrypt nothing, but try every public value
as a seed.
"""

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from fedcore.config import Experiment
from fedcore.data.encodings import encode
from fedcore.data.shards import read_shard
from fedcore.defences.base import chain
from fedcore.ground_truth import JudgeKey, VictimRecord, open_record
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.seeds import ClientSecret, stream
from fedcore.types import Observation, Ticket

from .conftest import Started

pytest.importorskip("torch")
from attacker.observations import Seen
from attacker.replay import replay
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors
from fedcore.nn.functional import gradient
from fedcore.nn.models import build

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def run(twice: Started) -> RunFolder:
    return RunFolder(twice.runs[0])


@pytest.fixture(scope="module")
def private(twice: Started, run: RunFolder) -> PrivateFolder:
    return PrivateFolder(twice.folder / "private" / run.root.name)


@pytest.fixture(scope="module")
def records(run: RunFolder, private: PrivateFolder) -> list[VictimRecord]:
    key = JudgeKey.read(private.judge_private)
    return [open_record(p.read_bytes(), key=key) for p in run.vault.rglob("*.sealed")]


def before_the_judge(run: RunFolder) -> list[Path]:
    """Every file that was there before judge and report were allowed to show truth."""
    files = [p for p in run.root.rglob("*") if p.is_file()]
    return [p for p in files if not {"report", "scores"} & set(p.relative_to(run.root).parts)]


def test_no_file_holds_a_victims_pixels(run: RunFolder, records: list[VictimRecord]) -> None:
    files = {path: path.read_bytes() for path in before_the_judge(run)}
    assert run.store_file in files
    assert any("journal" in path.parts for path in files)
    for record in records:
        pixels = record.inputs[0].astype(np.float32)
        forms = [
            pixels.tobytes(),
            (pixels * 16).astype(np.uint8).tobytes(),
            pixels.astype(np.float64).tobytes(),
        ]
        for path, content in files.items():
            assert not any(form in content for form in forms), path


def test_no_table_holds_a_label_column(run: RunFolder) -> None:
    with contextlib.closing(sqlite3.connect(run.store_file)) as store:
        tables = [
            row[0] for row in store.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")
        ]
    assert tables
    assert not any("label" in sql.lower() for sql in tables)


def test_no_file_holds_a_secret_or_a_private_key(run: RunFolder, private: PrivateFolder) -> None:
    secrets = [private.secret_file(c) for c in run.read_experiment().client_ids]
    hidden = [ClientSecret.read(path).key for path in secrets]
    hidden.append(bytes.fromhex(private.judge_private.read_text()))
    hidden += [
        path.read_bytes() for path in private.root.rglob("*.key") if path != private.judge_private
    ]
    for path in before_the_judge(run):
        content = path.read_bytes()
        for secret in hidden:
            assert secret not in content
            assert secret.hex().encode() not in content


def test_public_values_do_not_lead_to_the_batch(
    run: RunFolder, private: PrivateFolder, records: list[VictimRecord]
) -> None:
    """With the shard in hand, the client's secret finds the batch; nothing public does."""
    experiment = run.read_experiment()
    found_with_secret = 0
    for record in records:
        client_id = record.ticket.client_id
        shard = read_shard(private.service(client_id))
        truth = int(np.flatnonzero((shard.inputs == record.inputs[0]).all(axis=(1, 2, 3)))[0])
        labels = ("batch", experiment.digest, record.ticket.round)
        secret = ClientSecret.read(private.secret_file(client_id))
        found_with_secret += int(secret.stream(*labels).permutation(len(shard.labels))[0]) == truth
    assert found_with_secret == len(records)

    public = [experiment.seed, int(experiment.digest, 16) % 2**63]
    hits = 0
    for seed in public:
        for record in records:
            shard = read_shard(private.service(record.ticket.client_id))
            truth = np.flatnonzero((shard.inputs == record.inputs[0]).all(axis=(1, 2, 3)))
            guess = stream(seed, "batch", experiment.digest, record.ticket.round)
            hits += int(guess.permutation(len(shard.labels))[0]) in truth
    assert hits <= 2  # 64 blind guesses among some 500 examples


def defended(run: RunFolder) -> tuple[str, dict[Ticket, Observation]]:
    """The arm that draws spikes and noise, and its updates as the attacker sees them."""
    experiment = run.read_experiment()
    arm = experiment.arms[1]
    assert arm.encoding.name == "rate"
    assert [defence.name for defence in arm.defences] == ["clip", "gaussian"]
    run_id = experiment.run_id(arm)
    seen = replay(run, experiment, wants=lambda ticket: ticket.run_id == run_id)
    found = [event.observation for event in seen if isinstance(event, Seen)]
    return run_id, {o.ticket: o for o in found if o is not None}


def public_streams(experiment: Experiment, *labels: str | int) -> list[np.random.Generator]:
    """The same labels under every public root, as a seed and as a secret."""
    digest = bytes.fromhex(experiment.digest)
    return [
        stream(experiment.seed, *labels),
        stream(int(experiment.digest, 16) % 2**63, *labels),
        ClientSecret(digest).stream(*labels),
        ClientSecret(bytes(32)).stream(*labels),
    ]


def test_public_values_do_not_lead_to_the_spikes(
    run: RunFolder, private: PrivateFolder, records: list[VictimRecord]
) -> None:
    """Even with the image in hand, only the client's secret draws the same train."""
    experiment = run.read_experiment()
    spec, (run_id, _) = experiment.arms[1].encoding, defended(run)
    victims = [record for record in records if record.ticket.run_id == run_id]
    assert victims
    for record in victims:
        labels = ("encode", experiment.digest, record.ticket.round)
        secret = ClientSecret.read(private.secret_file(record.ticket.client_id))
        drawn = encode(spec, record.inputs, secret.stream(*labels))
        assert np.array_equal(drawn, record.encoded_input)
        for guess in public_streams(experiment, *labels):
            assert not np.array_equal(encode(spec, record.inputs, guess), record.encoded_input)


def test_public_values_do_not_lead_to_the_noise(
    run: RunFolder, private: PrivateFolder, records: list[VictimRecord]
) -> None:
    """Even with the spikes in hand, only the client's secret takes the noise off again."""
    experiment = run.read_experiment()
    arm, (run_id, seen) = experiment.arms[1], defended(run)
    model = build(arm.model)
    victims = [record for record in records if record.ticket.run_id == run_id]
    assert len(victims) == len(seen)
    for record in victims:
        sent = seen[record.ticket]
        slopes = to_arrays(
            gradient(
                model,
                to_tensors(sent.weights),
                to_tensor(record.encoded_input),
                to_tensor(record.labels),
            )
        )

        def left(rng: np.random.Generator, slopes=slopes, sent=sent) -> float:
            again = chain(arm.defences).update(slopes, rng)
            return max(float(np.abs(sent.tensors[n] - t).max()) for n, t in again.items())

        labels = ("defence", run_id, record.ticket.round)
        secret = ClientSecret.read(private.secret_file(record.ticket.client_id))
        assert left(secret.stream(*labels)) < 1e-5  # the noise has a deviation of 1e-3
        assert all(left(guess) > 1e-3 for guess in public_streams(experiment, *labels))


def test_the_shown_plan_hides_defences_that_are_not_granted(run: RunFolder) -> None:
    _, seen = defended(run)
    assert seen
    assert not any(observation.plan.defences for observation in seen.values())
