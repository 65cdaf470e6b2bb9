"""What an attacker makes of masked updates: one victim of the sum, or a true reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.secure_sums import round_sums  # noqa: E402
from fedcore.cohort import PairSecrets  # noqa: E402
from fedcore.defences.secure_aggregation import SecureAggregation  # noqa: E402
from fedcore.plan import Choice, ModelSpec, Training  # noqa: E402
from fedcore.seeds import ClientSecret, stream  # noqa: E402
from fedcore.types import Knowledge, Observation  # noqa: E402

pytestmark = pytest.mark.torch

RELU = ModelSpec(name="convnet", options={"channels": [16, 32]})
EXAMPLES = (3, 1, 4)
FINE = {"largest": 1.0, "bits": 22}


def masked(seen: Sequence[Observation]) -> list[Observation]:
    ids = [one.ticket.client_id for one in seen]
    hide = SecureAggregation(**FINE).hidden
    return [
        replace(
            one,
            tensors=hide(
                one.tensors,
                PairSecrets.deal(
                    one.ticket.client_id, ids, master=ClientSecret(bytes(32))
                ).of_round(one.ticket.run_id, one.ticket.round),
            ),
            plan=replace(one.plan, defences=(Choice(name="secure-aggregation", options=FINE),)),
        )
        for one in seen
    ]


def victims(laboratory) -> list[Observation]:
    return [laboratory.victim([i], model=RELU, client=c) for c, i in enumerate(EXAMPLES)]


def test_a_masked_update_alone_gives_nothing_and_the_sum_gives_the_batch(laboratory) -> None:
    clear = victims(laboratory)
    seen = masked(clear)
    sums = round_sums(seen, [Knowledge()] * 3)
    (whole,) = sums.seen
    assert whole.plan.training.batch_size == whole.n_examples == 3
    assert not whole.plan.defences
    for name in whole.tensors:
        mean = np.mean([one.tensors[name] for one in clear], axis=0)
        np.testing.assert_allclose(whole.tensors[name], mean, atol=1e-5)
    answers = laboratory.attack("inverting-gradients", sums.seen, iterations=60)
    spread = sums.spread(answers, seen)
    assert [spread[i].ticket for i in range(3)] == [one.ticket for one in seen]
    assert all(spread[i].candidates.shape[1] == 3 for i in range(3))
    errors = [
        ((answers[0].candidates[0] - laboratory.images[i]) ** 2).mean(axis=(1, 2, 3)).min()
        for i in EXAMPLES
    ]
    assert -10 * np.log10(np.mean(errors)) > 20
    (alone, *_) = laboratory.attack(
        "inverting-gradients",
        [replace(seen[0], plan=whole.plan, n_examples=1)],
        iterations=60,
    )
    assert alone.failed or laboratory.psnr_db(alone) < 15


def test_masks_are_known_by_their_values_where_the_plan_hides_them(laboratory) -> None:
    seen = [
        replace(one, plan=replace(one.plan, defences=())) for one in masked(victims(laboratory))
    ]
    (whole,) = round_sums(seen, [Knowledge()] * 3).seen
    assert whole.n_examples == 3


def test_updates_without_masks_are_left_alone(laboratory) -> None:
    clear = victims(laboratory)
    sums = round_sums(clear, [Knowledge()] * 3)
    assert sums.seen == clear
    assert sums.members == [[0], [1], [2]]


def test_a_round_that_was_not_seen_whole_is_refused(laboratory) -> None:
    seen = masked(victims(laboratory))[:2]
    sums = round_sums(seen, [Knowledge()] * 2)
    assert not sums.seen
    assert "do not cancel" in sums.failed[0]
    assert sums.failed.keys() == {0, 1}


def test_several_local_steps_of_several_clients_are_refused(laboratory) -> None:
    training = Training(update="delta", batch_size=1, local_steps=2)
    seen = [
        replace(one, kind="delta", plan=replace(one.plan, training=training))
        for one in masked(victims(laboratory))
    ]
    assert "several clients" in round_sums(seen, [Knowledge()] * 3).failed[0]


def test_what_was_told_of_each_is_told_of_all(laboratory) -> None:
    told = [
        Knowledge(labels=np.array([n]), encoded_input=np.full((2, 1, 4), n, "f4"))
        for n in (7, 2, 5)
    ]
    (known,) = round_sums(masked(victims(laboratory)), told).known
    assert known.labels is not None
    assert known.encoded_input is not None
    assert known.labels.tolist() == [2, 5, 7]
    assert known.encoded_input[0, :, 0].tolist() == [2, 5, 7]


def test_statistics_of_each_batch_become_those_of_all_examples(laboratory) -> None:
    values = stream(0, "received").normal(size=(6, 3)) * (1, 2, 3)
    parts = np.split(values, [1, 3])  # clients of one, two and three examples
    seen = [
        laboratory.victim(range(len(part)), model=RELU, client=client)
        for client, part in enumerate(parts)
    ]
    told = [
        Knowledge(batch_statistics={"norm.mean": p.mean(0), "norm.variance": p.var(0)})
        for p in parts
    ]
    (known,) = round_sums(masked(seen), told).known
    assert known.batch_statistics is not None
    np.testing.assert_allclose(known.batch_statistics["norm.mean"], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(known.batch_statistics["norm.variance"], values.var(0), rtol=1e-5)
    (known,) = round_sums(masked(seen), [*told[:2], Knowledge()]).known
    assert known.batch_statistics is None
