"""What a client computes, seals, sends and reports for an order."""

from __future__ import annotations

import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from fedcore.codecs.base import codec_of
from fedcore.conditions import Conditions
from fedcore.defences.base import DEFENCES, Defence
from fedcore.energy import Phase, PhaseRecord, WindowRecord
from fedcore.errors import StorageError
from fedcore.plan import Choice, EncodingSpec
from fedcore.seeds import stream
from fedcore.tensors import schema_of
from fedcore.types import Missing, TensorMap

from .conftest import BLOB, WAIT_S, WEIGHTS, LinearBackend, Site, a_shard, plan, wait_until


@dataclass(frozen=True, kw_only=True)
class CarelessDefence(Defence):
    """Scales the update in place, whatever the contract says."""

    def update(self, tensors: TensorMap, rng: object) -> TensorMap:
        for tensor in tensors.values():
            np.multiply(tensor, 2, out=tensor)
        return tensors


def test_one_round_from_order_to_report(site: Site) -> None:
    site.aggregator.push(plan(evaluate=True, encoding=EncodingSpec(name="direct", n_steps=2)))
    with site.running_client():
        report = site.report()
    assert [record.phase for record in report.phases] == [
        Phase.IDLE,
        Phase.RECEIVE,
        Phase.EVALUATE,
        Phase.ENCODE,
        Phase.SEAL,
        Phase.TRAIN,
        Phase.DEFEND,
        Phase.SUBMIT,
        Phase.SEAL,  # between packing and sending; not the client's cost
        Phase.SUBMIT,
    ]
    for record in report.phases:
        assert record.duration_s > 0
        assert isinstance(record.measured, Missing)
        assert record.measured.why
        assert not isinstance(record.modelled, Missing)
    starts = [record.start_mono_ns for record in report.phases]
    assert starts == sorted(starts)
    assert abs(report.clock_offset_s - 1000) <= report.clock_uncertainty_s
    assert (site.folder / "pulse").exists()

    shard = a_shard()
    x = shard.eval_inputs.reshape(300, -1).astype(np.float64)
    logits = x @ WEIGHTS["readout.weight"].T + WEIGHTS["readout.bias"]
    of_truth = logits[np.arange(300), shard.eval_labels]
    assert report.evaluation is not None
    assert report.evaluation.n_examples == 300
    assert report.evaluation.n_correct == np.sum(logits.argmax(axis=1) == shard.eval_labels)
    assert report.evaluation.mean_loss == pytest.approx(
        np.mean(np.log(np.exp(logits).sum(axis=1)) - of_truth), rel=1e-5
    )


def test_the_sealed_truth_explains_the_bytes_that_were_sent(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFENCES._where, "careless", f"{__name__}:CarelessDefence")
    careless = Choice(name="careless")
    site.aggregator.push(plan(defences=(careless,)))
    with site.running_client():
        site.report()
    (record,) = site.records()
    ((header, body),) = site.aggregator.uploads
    assert record.sha256 == header.sha256 == hashlib.sha256(body).hexdigest()
    assert record.ticket == header.ticket
    shard = a_shard()
    for image, label in zip(record.inputs, record.labels, strict=True):
        (place,) = np.flatnonzero((shard.inputs == image).all(axis=(1, 2, 3)))
        assert shard.labels[place] == label
    assert record.encoded_input.shape == (5, 4, 1, 4, 4)
    assert set(np.unique(record.encoded_input)) <= {0, 1}

    oracle = LinearBackend()
    oracle.load(plan(), WEIGHTS)
    expected = oracle.train([record.encoded_input.copy()], [record.labels.copy()], noise=stream(0))
    sent, note = codec_of(Choice(name="f32")).decode(body, schema=schema_of(WEIGHTS))
    assert note["n_examples"] == 4
    for name, tensor in expected.items():
        np.testing.assert_array_equal(sent[name], 2 * tensor)  # the defence doubled it


def test_the_same_secret_sends_the_same_bytes_and_another_does_not(site: Site) -> None:
    noisy = plan(defences=(Choice(name="gaussian", options={"std": 0.1}),))
    for secret in (b"s" * 32, b"s" * 32, b"t" * 32):
        site.aggregator.push(noisy)
        with site.running_client(secret=secret):
            site.report()
    first, again, other = (body for _, body in site.aggregator.uploads)
    assert first == again
    assert first != other


def test_noise_of_a_protecting_run_is_drawn_once_and_cannot_be_drawn_again(site: Site) -> None:
    protecting = plan(defences=(Choice(name="gaussian", options={"std": 0.1}),), reproducible=False)
    site.aggregator.push(protecting)
    with site.running_client():
        first = site.report()
        site.aggregator.push(protecting, attempt=1)
        again = site.report()
    site.aggregator.push(protecting, attempt=2)
    with site.running_client():  # as after kill -9
        site.report()
    (_, sent), (header, resent), (_, recomputed) = site.aggregator.uploads
    assert sent == resent
    assert header.attempt == again.attempt == 1
    assert again.phases[: len(first.phases)] == first.phases
    assert recomputed != sent


def test_without_sealed_truth_nothing_is_sent(site: Site) -> None:
    (site.folder / "vault").write_text("a file where a folder should be")
    site.aggregator.push(plan())
    with site.client() as client, pytest.raises(StorageError, match="not sent"):
        client.run()
    assert not site.aggregator.uploads


def test_weights_are_downloaded_and_checked(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.aggregator.artefacts[plan().weights] = BLOB[:-1] + b"\x00"
    site.aggregator.push(plan(round=0), inline=False)
    with site.running_client():
        wait_until(lambda: "refused" in caplog.text)
        site.aggregator.artefacts[plan().weights] = BLOB
        site.aggregator.push(plan(round=1), inline=False)
        site.report(round=1)
    assert [header.ticket.round for header, _ in site.aggregator.uploads] == [1]


def test_a_closing_plan_is_evaluated_and_reported_without_an_update(site: Site) -> None:
    site.aggregator.push(plan(train=False, evaluate=True))
    with site.running_client():
        report = site.report()
    assert report.evaluation is not None
    assert [r.phase for r in report.phases] == [Phase.IDLE, Phase.RECEIVE, Phase.EVALUATE]
    assert not site.aggregator.uploads
    assert not site.records()
    (readout,) = report.surroundings.operations
    assert readout.macs == readout.dense > 0


def test_idling_is_measured_before_the_first_round_and_after_the_last(site: Site) -> None:
    with site.client() as client, ThreadPoolExecutor(1) as thread:
        client.baseline_s = 0.01
        home = thread.submit(client.run)
        site.aggregator.push(plan())
        first = site.report()
        site.aggregator.push(plan(round=1))
        second = site.report(round=1)
        site.aggregator.push(plan(round=2, train=False, evaluate=True))
        last = site.report(round=2)
        site.aggregator.say_farewell()
        home.result(WAIT_S)
    counts = [len(report.surroundings.baselines) for report in (first, second, last)]
    assert counts == [1, 0, 1]
    (before,), (after,) = first.surroundings.baselines, last.surroundings.baselines
    assert isinstance(before.rails, Missing)  # the meter is "null"
    assert before.start_mono_ns + 0.01e9 <= first.phases[0].start_mono_ns
    assert after.start_mono_ns >= last.phases[-1].start_mono_ns


def test_how_hot_and_fast_the_machine_was_goes_with_the_report(site: Site) -> None:
    looked = itertools.count(40)
    with site.client() as client, ThreadPoolExecutor(1) as thread:
        client.conditions = lambda: Conditions(
            temperatures_c={"cpu": float(next(looked))},
            throttling=Missing(why="no counters"),
            clock_hz=(1, 2),
        )
        home = thread.submit(client.run)
        site.aggregator.push(plan())
        found = site.report().surroundings
        site.aggregator.say_farewell()
        home.result(WAIT_S)
    assert (found.start.hottest_c, found.end.hottest_c) == (40.0, 41.0)


def test_a_round_and_the_run_are_windows_around_the_phases(site: Site) -> None:
    with site.client() as client, ThreadPoolExecutor(1) as thread:
        home = thread.submit(client.run)
        reports = []
        for number in range(2):
            site.aggregator.push(plan(round=number))
            reports.append(site.report(round=number))
        site.aggregator.say_farewell()
        home.result(WAIT_S)
    spans = []
    for report in reports:
        around, run = report.surroundings.windows
        assert (around.name, run.name) == ("round", "run")
        idle, *work = [(r.start_mono_ns, _end_ns(r)) for r in report.phases]
        assert idle[1] <= around.start_mono_ns <= work[0][0]
        assert work[-1][1] <= _end_ns(around) <= _end_ns(run)
        spans.append((run.start_mono_ns, _end_ns(run)))
        assert run.start_mono_ns <= idle[0]
    gap_ns = spans[1][0] - spans[0][1]
    assert 0 <= gap_ns < 0.1e9  # the parts of the run follow each other


def _end_ns(record: PhaseRecord | WindowRecord) -> int:
    return record.start_mono_ns + round(record.duration_s * 1e9)
