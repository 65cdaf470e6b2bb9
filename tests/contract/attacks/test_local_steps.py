"""Updates of several local steps, as clients of FedAvg and FedProx send them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from attacker.gradients import mean_gradient_of  # noqa: E402
from attacker.local_steps import LocalSteps  # noqa: E402
from fedcore.errors import AttackError  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.learning_rules.backprop import Backprop  # noqa: E402
from fedcore.nn.learning_rules.base import Batch  # noqa: E402
from fedcore.nn.models import build  # noqa: E402
from fedcore.plan import ModelSpec, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import Knowledge, Observation  # noqa: E402

pytestmark = pytest.mark.torch

SIGMOID = ModelSpec(activation="sigmoid", init_gain=5.0)
RELU = ModelSpec(activation="relu")
SMALL = ModelSpec(name="mlp", activation="sigmoid", init_gain=5.0, options={"hidden": [100]})
SPIKING = ModelSpec(name="convnet", spiking=True, init_gain=3.0)


def federated(
    laboratory, batches: list[list[int]], *, model: ModelSpec, mu: float = 0.0, client: int = 0
) -> Observation:
    """The update of a client with these examples in each step; the truth as the vault has it."""
    training = Training(
        update="delta",
        batch_size=len(batches[0]),
        local_steps=len(batches),
        learning_rate=0.05,
        proximal_mu=mu,
    )
    examples = [i for batch in batches for i in batch]
    seen = laboratory.victim(examples, model=model, client=client)
    steps = [
        Batch(to_tensor(laboratory.images[batch][None]), to_tensor(laboratory.labels[batch]))
        for batch in batches
    ]
    delta, _ = Backprop().update(build(model), to_tensors(seen.weights), steps, training, {})
    return replace(
        seen,
        kind="delta",
        tensors=to_arrays(delta),
        n_examples=len(set(examples)),
        plan=replace(seen.plan, training=training),
    )


def labels_of(laboratory, seen: Observation) -> Knowledge:
    return Knowledge(labels=laboratory.truths[seen.ticket].labels)


@pytest.mark.parametrize("mu", [0.0, 2.0])
@pytest.mark.parametrize("model", [SIGMOID, SPIKING], ids=["ann", "snn"])
@pytest.mark.parametrize("batches", [[[0, 1], [2, 3], [4, 5]], [[0, 1], [1, 0]], [[7]]])
def test_the_unrolled_steps_are_the_clients(batches, model, mu: float, laboratory) -> None:
    """Oracle: the client's own learning rule."""
    seen = federated(laboratory, batches, model=model, mu=mu)
    steps = LocalSteps.behind(seen)
    shown = [i for batch in batches for i in batch][: steps.n_inputs]
    found = steps.update(
        build(model),
        to_tensors(seen.weights),
        to_tensor(laboratory.images[shown][None]),
        F.one_hot(to_tensor(laboratory.labels[shown]), 10).to(torch.float32),
    )
    for name, slope in mean_gradient_of(seen).items():
        scale = float(np.abs(slope).max())
        np.testing.assert_allclose(found[name], slope, atol=2e-5 + 1e-4 * scale)


def test_what_is_declared_says_whether_the_steps_share_a_batch(laboratory) -> None:
    apart = LocalSteps.behind(federated(laboratory, [[0, 1], [2, 3]], model=SIGMOID))
    assert (apart.n_inputs, apart.same_batch) == (4, False)
    same = LocalSteps.behind(federated(laboratory, [[0, 1], [1, 0]], model=SIGMOID))
    assert (same.n_inputs, same.same_batch) == (2, True)
    epochs = LocalSteps.behind(federated(laboratory, [[0], [1], [1], [0]], model=SIGMOID))
    assert (epochs.n_inputs, epochs.same_batch) == (4, False)


def test_labels_are_arranged_without_looking_at_their_order(laboratory) -> None:
    steps = LocalSteps.behind(federated(laboratory, [[0, 1], [2, 3]], model=SIGMOID))
    labels = np.array([3, 1, 3, 2])
    one, other = (
        steps.arranged([order], n_ways=20, rng=stream(0)) for order in (labels, labels[::-1])
    )
    assert np.array_equal(one, other)
    as_batches = [{tuple(sorted(step)) for step in (way[:2], way[2:])} for way in one]
    assert all(sorted(way) == [1, 2, 3, 3] for way in one)
    assert {(1, 2), (3, 3)} in as_batches
    assert {(1, 3), (2, 3)} in as_batches
    assert len({way.tobytes() for way in one}) == len(one) == 4
    for few, many in zip(steps.arranged([labels], n_ways=2, rng=stream(0)), one, strict=False):
        assert np.array_equal(few, many)


def test_granted_steps_leave_one_way(laboratory) -> None:
    steps = LocalSteps.behind(federated(laboratory, [[0, 1], [2, 3]], model=SIGMOID))
    labels, order = np.array([1, 2, 3, 3]), np.array([1, 0, 0, 1])
    (way,) = steps.arranged([labels], n_ways=20, rng=stream(0), step_order=order)
    assert way.tolist() == [2, 3, 1, 3]


def test_who_knows_the_steps_of_the_labels_finds_what_lies_in_them(laboratory) -> None:
    """Three steps of one example: in order all is found, sorted by label next to nothing."""
    batches = [[100], [101], [102]]
    seen = federated(laboratory, batches, model=SMALL)
    labels = laboratory.truths[seen.ticket].labels
    unordered = Knowledge(labels=np.sort(labels))
    ordered = Knowledge(labels=labels, step_order=np.arange(3))
    blind, told = (
        laboratory.attack("idlg", [seen], known=[known], iterations=60)[0]
        for known in (unordered, ordered)
    )
    assert told.knowledge == ("labels", "step_order")
    assert told.labels[0].tolist() == labels.tolist()
    assert blind.knowledge == ("labels",)
    assert laboratory.psnr_db(told) >= 40
    assert laboratory.psnr_db(blind) <= 25


def test_labels_that_do_not_fill_the_steps_are_refused(laboratory) -> None:
    seen = federated(laboratory, [[0, 1], [2, 3]], model=SIGMOID)
    with pytest.raises(AttackError, match="3 granted labels"):
        laboratory.attack("idlg", [seen], known=[Knowledge(labels=np.arange(3))], iterations=2)


def test_the_images_of_several_steps_are_found(laboratory) -> None:
    seen = federated(laboratory, [[100], [101]], model=SMALL)
    known = [labels_of(laboratory, seen)]
    (answer,) = laboratory.attack("idlg", [seen], known=known, restarts=2, iterations=150)
    assert answer.candidates.shape == (2, 2, 1, 8, 8)
    assert laboratory.psnr_db(answer) >= 25
    assert laboratory.labels_are_right(answer)


def test_several_steps_on_one_batch_are_matched_with_one_batch(laboratory) -> None:
    seen = federated(laboratory, [[100, 101]] * 2, model=SMALL)
    known = [labels_of(laboratory, seen)]
    (answer,) = laboratory.attack("idlg", [seen], known=known, restarts=2, iterations=150)
    assert answer.candidates.shape == (2, 4, 1, 8, 8)
    assert answer.labels.shape == (2, 4)
    np.testing.assert_array_equal(answer.candidates[:, :2], answer.candidates[:, 2:])
    assert laboratory.psnr_db(answer) >= 25
    assert laboratory.labels_are_right(answer)


def test_the_label_of_one_example_is_read_from_many_steps(laboratory) -> None:
    seen = [federated(laboratory, [[i]] * 5, model=RELU, client=i) for i in range(100, 104)]
    for answer in laboratory.attack("inverting-gradients", seen, iterations=3):
        assert laboratory.labels_are_right(answer)
        assert not answer.knowledge


def test_unrolling_beats_taking_the_update_for_one_gradient(laboratory) -> None:
    """With a large learning rate the later gradients are taken elsewhere."""
    seen = federated(laboratory, [[102]] * 5, model=SMALL, client=1)
    as_one = replace(
        seen,
        kind="gradient",
        tensors=mean_gradient_of(seen),
        plan=replace(seen.plan, training=Training(batch_size=1)),
    )
    unrolled, single = (
        laboratory.attack("idlg", [o], iterations=60)[0].losses.min() for o in (seen, as_one)
    )
    assert unrolled < 0.1 * single
