"""The judge: joins only what belongs together, keeps every failure, never without baselines."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from fedcore.errors import RunError
from fedcore.ground_truth import JudgeKey
from fedcore.types import LeakageScore, Missing
from testbed.baselines import Guess, noise_guesses
from testbed.findings import BASELINES, NULLS, Findings, read_findings
from testbed.judge import judge
from testbed.metrics import METRICS, label_accuracy, psnr_db
from testbed.pictures import read_pictures
from testbed.statistics import Estimate, Share

NOT_OF_IMAGES = ("correlation", "smape", "spike-iou", "temporal-correlation", "van-rossum")
"""Series, and trains that this attack does not claim."""


def judged(world) -> dict[str, Findings]:
    return {found.arm: found for found in judge(world.run, world.private)}


def scores(found: Findings, metric: str) -> list[LeakageScore]:
    return [score for score in found.scores if score.metric == metric]


def test_every_victim_has_every_metric_beside_both_baselines(world) -> None:
    for name, found in judged(world).items():
        arm = world.arm(name)
        n_victims = len(arm.attack.victim_rounds) * world.experiment.n_clients
        assert len(found.attempts) == n_victims
        for metric in METRICS.names():
            rows = scores(found, metric)
            assert len(rows) == n_victims
            for row in rows:
                assert set(row.baselines) == set(NULLS)
                if isinstance(row.value, Missing):
                    assert (
                        metric in NOT_OF_IMAGES or "piq" in row.value.why or "16" in row.value.why
                    )
                else:
                    assert all(isinstance(row.baselines[name], float) for name in BASELINES)


def test_scores_are_those_of_the_attackers_choice(world) -> None:
    """The oracle may be another restart; the attacker's own loss decides."""
    answers = [replace(answer, losses=answer.losses[::-1]) for answer in world.answers["ann"]]
    world.answer_with("ann", answers)  # now the worse restart has the lower loss
    found = judged(world)["ann"]
    for answer in answers:
        truth = world.truths[answer.ticket]
        (psnr,) = [s for s in scores(found, "psnr") if s.ticket == answer.ticket]
        (labels,) = [s for s in scores(found, "label-accuracy") if s.ticket == answer.ticket]
        assert psnr.value == pytest.approx(psnr_db(truth.inputs, answer.candidates[1]))
        assert psnr.oracle == pytest.approx(psnr_db(truth.inputs, answer.candidates[0]))
        assert psnr.oracle > psnr.value
        assert labels.value == label_accuracy(truth.labels, answer.labels[1])
    assert {attempt.chosen for attempt in found.attempts} == {1}


def test_summaries_are_what_scipy_says(world) -> None:
    found = judged(world)["snn"]
    for of_round in (None, *found.rounds):
        rows = [r for r in scores(found, "psnr") if of_round in (None, r.ticket.round)]
        values = np.array([row.value for row in rows])
        mean_image = np.array([row.baselines["mean-image"] for row in rows])
        noise = np.array([row.baselines["noise"] for row in rows])
        summary = found.summary("psnr", of_round=of_round)
        interval = scipy.stats.ttest_rel(values, mean_image).confidence_interval(0.95)
        paired = summary.differences["mean-image"]
        assert isinstance(paired, Estimate)
        assert (paired.low, paired.high) == pytest.approx((interval.low, interval.high))
        assert isinstance(summary.mean, Estimate)
        assert summary.mean.value == pytest.approx(values.mean())
        assert isinstance(summary.success, Share)
        assert summary.success.n_yes == int(((values > mean_image) & (values > noise)).sum())
        assert summary.success.n == len(rows)


def test_failed_and_diverged_attempts_stay_in_the_table(world) -> None:
    answers = list(world.answers["ann"])
    empty = np.zeros((0, *answers[0].candidates.shape[1:]), dtype=np.float32)
    answers[0] = replace(answers[0], candidates=answers[0].candidates * np.nan)
    answers[1] = replace(
        answers[1], candidates=empty, losses=np.zeros(0), failed="the line search failed"
    )
    answers[2] = replace(answers[2], losses=answers[2].losses * np.nan)
    answers[3] = replace(answers[3], candidates=answers[3].candidates[..., :7])
    lost = answers.pop()
    world.answer_with("ann", answers)
    found = judged(world)["ann"]
    why = {attempt.ticket: attempt.failed for attempt in found.attempts}
    assert why[answers[0].ticket] == "the reconstruction is not finite"
    assert why[answers[1].ticket] == "the line search failed"
    assert why[answers[2].ticket] == "no restart has a finite loss"
    assert "shape" in why[answers[3].ticket]
    assert why[lost.ticket] == "the attack left no reconstruction"
    summary = found.summary("psnr")
    assert (summary.n, summary.n_missing) == (4, 5)
    assert isinstance(summary.success, Share)
    assert summary.success.n == 9
    for score in scores(found, "psnr"):
        if why[score.ticket]:
            assert score.value == Missing(why=why[score.ticket])
            assert all(isinstance(base, float) for base in score.baselines.values())
    pictures = {picture.ticket: picture for picture in read_pictures(world.run, found.run_id)}
    assert len(pictures) == 9
    assert pictures[answers[1].ticket].chosen is None


def test_a_diverged_restart_does_not_spoil_the_chosen_one(world) -> None:
    answers = list(world.answers["ann"])
    candidates = answers[0].candidates.copy()
    candidates[1] = np.nan
    answers[0] = replace(answers[0], candidates=candidates)
    world.answer_with("ann", answers)
    score = scores(judged(world)["ann"], "psnr")[0]
    assert isinstance(score.value, float)
    assert score.oracle == score.value


def test_a_baseline_that_lacks_a_draw_is_not_the_mean_of_the_others(world, monkeypatch) -> None:
    def spoilt(*args: object, **named: object) -> list[Guess]:
        first, *rest = noise_guesses(*args, **named)
        return [first, replace(first, inputs=first.inputs * np.nan), *rest]

    monkeypatch.setattr("testbed.scoring.noise_guesses", spoilt)
    with pytest.raises(RunError, match="without its baselines"):
        judge(world.run, world.private)


def test_an_arm_that_was_never_attacked_is_all_missing(world) -> None:
    for path in world.run.attack(world.run_id("snn")).iterdir():
        path.unlink()
    found = judged(world)["snn"]
    assert {attempt.failed for attempt in found.attempts} == {"the attack left no reconstruction"}
    assert isinstance(found.summary("psnr").mean, Missing)


def test_a_reconstruction_of_other_bytes_is_refused(world) -> None:
    answers = list(world.answers["ann"])
    answers[4] = replace(answers[4], sha256="0" * 64)
    world.answer_with("ann", answers)
    with pytest.raises(RunError, match="made from bytes 000000000000"):
        judge(world.run, world.private)


def test_a_record_filed_under_other_bytes_is_refused(world) -> None:
    first, second = (a.ticket for a in world.answers["ann"][:2])
    paths = [world.run.sealed_file(t, world.hashes[t]) for t in (first, second)]
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(RunError, match="the record inside is of"):
        judge(world.run, world.private)


def test_another_key_opens_nothing(world) -> None:
    JudgeKey.generate().write(
        private=world.private.judge_private, public=world.private.root / "other.pub"
    )
    with pytest.raises(RunError, match="another judge key"):
        judge(world.run, world.private)


def test_a_record_that_is_not_there_is_missing_with_its_reason(world) -> None:
    ticket = world.answers["ann"][0].ticket
    world.run.sealed_file(ticket, world.hashes[ticket]).unlink()
    found = judged(world)["ann"]
    score = scores(found, "psnr")[0]
    assert isinstance(score.value, Missing)
    assert "collect it from the client's board" in score.value.why
    assert found.summary("psnr").n_missing == 1


def test_an_auxiliary_set_with_a_victims_image_is_refused(world, digits) -> None:
    images, labels = digits
    victim = world.truths[world.answers["ann"][0].ticket]
    with world.private.auxiliary_file.open("wb") as file:
        np.savez(
            file,
            inputs=np.concatenate([images[-50:], victim.inputs]),
            labels=np.concatenate([labels[-50:], victim.labels]),
        )
    with pytest.raises(RunError, match="also in the auxiliary set"):
        judge(world.run, world.private)


def test_baselines_do_not_depend_on_the_attack_and_are_the_same_in_both_arms(world) -> None:
    found = judged(world)
    by_victim = [
        {(s.ticket.round, s.ticket.client_id): s.baselines for s in scores(found[arm], "psnr")}
        for arm in ("ann", "snn")
    ]
    assert by_victim[0] == by_victim[1]  # the fixture's arms share their batches


def test_the_mean_image_is_that_of_the_auxiliary_set(world) -> None:
    found = judged(world)["ann"]
    with np.load(world.private.auxiliary_file) as file:
        mean = file["inputs"].mean(axis=0)
    for score in scores(found, "psnr"):
        truth = world.truths[score.ticket].inputs
        expected = psnr_db(truth, np.broadcast_to(mean, truth.shape))
        assert score.baselines["mean-image"] == pytest.approx(expected, rel=1e-5)


def test_granted_labels_are_not_called_found(make_world: Callable) -> None:
    world = make_world(threat={"labels": True})
    found = judged(world)["ann"]
    assert {s.value for s in scores(found, "label-accuracy")} == {
        Missing(why="the threat model grants the labels")
    }


def test_batches_are_matched_before_they_are_scored(make_world: Callable) -> None:
    world = make_world(training={"batch_size": 4}, arms=[{"name": "ann"}])
    straight = judged(world)["ann"]
    shuffled = [
        replace(a, candidates=a.candidates[:, [2, 0, 3, 1]], labels=a.labels[:, [2, 0, 3, 1]])
        for a in world.answers["ann"]
    ]
    world.answer_with("ann", shuffled)
    for before, after in zip(straight.scores, judged(world)["ann"].scores, strict=True):
        assert before.value == pytest.approx(after.value)
        assert before.baselines == after.baselines


def test_the_file_says_all_of_it_and_is_the_same_twice(world) -> None:
    found = judged(world)["ann"]
    path = world.run.scores_file(found.run_id)
    first = path.read_bytes()
    assert read_findings(path) == found
    assert found.experiment_digest == world.experiment.digest
    assert "conditional on that trained model" in found.caveat
    judge(world.run, world.private)
    assert path.read_bytes() == first


def test_scores_hold_no_truth(world) -> None:
    """The scores file lies where the attacker may read; only the report's folder shows victims."""
    found = judged(world)["ann"]
    written = world.run.scores_file(found.run_id).read_bytes()
    assert b"inputs" not in written
    assert len(written) < 1000 * len(found.scores)  # the digits of an image would not fit
