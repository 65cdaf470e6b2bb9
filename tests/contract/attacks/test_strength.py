"""Floors that only a working attack reaches, and laws about what it computes.

The floors lie far below what was measured when they were set, so that another machine's rounding
does not matter, and far above what a broken attack or a guess gets.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from attacker.batch import Batch, Victim  # noqa: E402
from attacker.inputs import input_view  # noqa: E402
from attacker.objectives import cosine_distance  # noqa: E402
from fedcore.errors import ConfigError, KnowledgeError  # noqa: E402
from fedcore.nn.arrays import to_tensors  # noqa: E402
from fedcore.nn.models import build  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec  # noqa: E402
from fedcore.types import Knowledge  # noqa: E402

pytestmark = pytest.mark.torch

# LeNet on 8x8 with weights up to +-0.5 in the last convolution, where Zhu et al. draw them all.
SIGMOID = ModelSpec(activation="sigmoid", init_gain=5.0)
RELU = ModelSpec(activation="relu")
SPIKING = ModelSpec(spiking=True, init_gain=3.0)
VICTIMS = range(100, 104)


@pytest.mark.parametrize("name", ["dlg", "idlg"])
def test_deep_leakage_finds_the_image_and_the_label(name: str, laboratory) -> None:
    seen = [laboratory.victim([i], model=SIGMOID, round=i % 2, client=i) for i in VICTIMS]
    for answer in laboratory.attack(name, seen, restarts=2, iterations=120):
        assert laboratory.psnr_db(answer) >= 30
        assert laboratory.labels_are_right(answer)


def test_deep_leakage_finds_a_batch_and_its_labels(laboratory) -> None:
    seen = [laboratory.victim([100, 101], model=SIGMOID)]
    (answer,) = laboratory.attack("dlg", seen, restarts=3, iterations=300)
    assert laboratory.psnr_db(answer) >= 30
    assert laboratory.labels_are_right(answer)


def test_inverting_gradients_beats_noise_and_the_mean_image(laboratory) -> None:
    seen = [laboratory.victim([i], model=RELU, client=i) for i in VICTIMS]
    answers = laboratory.attack("inverting-gradients", seen, restarts=2, iterations=200)
    reached = np.mean([laboratory.psnr_db(answer) for answer in answers])
    others = laboratory.images[500:].mean(axis=0)
    noise = np.random.default_rng(0).random(others.shape)
    for guess in (others, noise):
        errors = [np.mean((guess - laboratory.images[i]) ** 2) for i in VICTIMS]
        baseline = np.mean(-10 * np.log10(errors))
        assert reached >= baseline + 3
    assert all(laboratory.labels_are_right(answer) for answer in answers)


def test_more_iterations_are_never_worse_by_the_attackers_own_loss(laboratory) -> None:
    seen = [laboratory.victim([i], model=SIGMOID, client=i) for i in VICTIMS]
    few, many = (laboratory.attack("idlg", seen, iterations=n) for n in (10, 40))
    lower = [m.losses.min() < f.losses.min() for f, m in zip(few, many, strict=True)]
    assert all(lower)


@pytest.mark.parametrize("model", [SIGMOID, SPIKING], ids=["ann", "snn"])
def test_the_batched_loss_is_the_one_of_a_victim_alone(model: ModelSpec, laboratory) -> None:
    """Oracle: plain autograd, one victim at a time, through the gradient twice."""
    encoding = EncodingSpec(n_steps=4)
    view = input_view(encoding, input_shape=model.input_shape, batch_size=1)
    seen = [
        laboratory.victim([i], model=model, encoding=encoding, round=i, client=i) for i in range(3)
    ]
    batch = Batch(
        [
            Victim(
                ticket=o.ticket,
                weights=o.weights,
                gradient=o.tensors,
                scale=1.0,
                labels=(laboratory.truths[o.ticket].labels,),
            )
            for o in seen
        ],
        network=build(model),
        view=view,
        n_examples=1,
        restarts=2,
        objective=lambda found, target, _: cosine_distance(found, target),
    )
    rows = batch.starts("uniform", seed=1)
    losses, slopes = batch.evaluate(rows)
    torch.testing.assert_close(batch.losses(rows), losses)
    for row, (loss, slope) in enumerate(zip(losses, slopes, strict=True)):
        observation = seen[row // 2]
        weights = {n: t.requires_grad_() for n, t in to_tensors(observation.weights).items()}
        image = rows[row].reshape(view.shape).requires_grad_()
        train = image.expand(4, *image.shape)
        logits = torch.func.functional_call(build(model), weights, (train,)).logits
        label = torch.from_numpy(laboratory.truths[observation.ticket].labels)
        found = torch.autograd.grad(
            F.cross_entropy(logits, label), list(weights.values()), create_graph=True
        )
        expected = cosine_distance(
            dict(zip(weights, found, strict=True)), to_tensors(observation.tensors)
        )
        (expected_slope,) = torch.autograd.grad(expected, image)
        torch.testing.assert_close(loss, expected.detach(), atol=1e-5, rtol=1e-4)
        scale = float(expected_slope.abs().max())
        torch.testing.assert_close(slope, expected_slope.flatten(), atol=1e-3 * scale, rtol=1e-3)


def test_the_true_image_has_no_loss(laboratory) -> None:
    for model in (SIGMOID, SPIKING):
        view = input_view(EncodingSpec(), input_shape=model.input_shape, batch_size=1)
        seen = laboratory.victim([9], model=model)
        truth = laboratory.truths[seen.ticket]
        batch = Batch(
            [
                Victim(
                    ticket=seen.ticket,
                    weights=seen.weights,
                    gradient=seen.tensors,
                    scale=1.0,
                    labels=(truth.labels,),
                )
            ],
            network=build(model),
            view=view,
            n_examples=1,
            restarts=1,
            objective=lambda found, target, _: cosine_distance(found, target),
        )
        loss = batch.losses(torch.from_numpy(truth.inputs.reshape(1, -1)))
        assert abs(float(loss)) < 1e-5


def test_the_losses_are_those_of_the_reported_candidates(laboratory) -> None:
    """DLG roams outside [0, 1]; what it reports is measured where it was put."""
    seen = laboratory.victim([11], model=RELU)
    (answer,) = laboratory.attack("idlg", [seen], restarts=3, iterations=15)
    view = input_view(EncodingSpec(), input_shape=RELU.input_shape, batch_size=1)
    length = np.sqrt(sum(float((g**2).sum()) for g in seen.tensors.values()))
    batch = Batch(
        [
            Victim(
                ticket=seen.ticket,
                weights=seen.weights,
                gradient=seen.tensors,
                scale=1.0,
                labels=(answer.labels[0],),
            )
        ],
        network=build(RELU),
        view=view,
        n_examples=1,
        restarts=3,
        objective=lambda found, target, _: (
            sum(((found[n] - target[n]) ** 2).sum() for n in target) / length**2
        ),
    )
    measured = batch.losses(torch.from_numpy(answer.candidates.reshape(3, -1)))
    np.testing.assert_allclose(answer.losses, measured.numpy(), rtol=1e-3)


def test_a_search_that_gets_no_further_ends(laboratory) -> None:
    seen = [laboratory.victim([5], model=RELU)]
    steps = {"learning_rate": 1e-9, "iterations": 50}  # too short to get anywhere
    (patient,) = laboratory.attack("inverting-gradients", seen, **steps)
    (hasty,) = laboratory.attack("inverting-gradients", seen, patience=0.1, **steps)
    assert (patient.n_iterations, hasty.n_iterations) == (50, 6)
    with pytest.raises(ConfigError, match="patience"):
        laboratory.attack("dlg", [], iterations=1, patience=0.0)


def test_a_compiled_search_finds_the_same(laboratory, monkeypatch) -> None:
    compiled = []

    def compile_eagerly(recording):
        """As torch does, but without a compiler behind it."""
        compiled.append(recording)
        return recompile(recording, backend="eager")

    recompile = torch.compile
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    seen = [laboratory.victim([0], model=ModelSpec())]
    (plain,) = laboratory.attack("inverting-gradients", seen, iterations=30)
    assert not compiled
    (found,) = laboratory.attack("inverting-gradients", seen, iterations=30, compiles=True)
    assert len(compiled) == 1
    np.testing.assert_allclose(found.candidates, plain.candidates, atol=1e-3)
    np.testing.assert_allclose(found.losses, plain.losses, rtol=1e-3)


def test_inverting_gradients_adds_its_prior(laboratory) -> None:
    seen = [laboratory.victim([5], model=RELU)]
    free, smooth = (
        laboratory.attack("inverting-gradients", seen, iterations=60, total_variation=weight)[0]
        for weight in (0.0, 10.0)
    )

    def roughness(answer) -> float:
        image = answer.candidates[0, 0, 0]
        return float(sum(np.abs(np.diff(image, axis=axis)).mean() for axis in (0, 1)))

    assert roughness(smooth) < 0.2 * roughness(free)
    np.testing.assert_allclose(smooth.losses[0] - 10 * roughness(smooth), 0.1, atol=0.1)


def test_the_length_of_a_gradient_changes_no_direction(laboratory) -> None:
    seen = laboratory.victim([7], model=SIGMOID)
    shorter = {name: t * np.float32(2.0**-60) for name, t in seen.tensors.items()}
    whole, scaled = (
        laboratory.attack("inverting-gradients", [o], iterations=10)[0]
        for o in (seen, replace(seen, tensors=shorter))
    )
    np.testing.assert_allclose(scaled.candidates, whole.candidates, atol=1e-6)


def test_restarts_take_turns_where_the_label_rules_differ(laboratory) -> None:
    seen = laboratory.victim([12], model=SIGMOID)
    bias = seen.tensors["readout.bias"].copy()
    wrong = (int(laboratory.labels[12]) + 1) % 10
    bias[wrong] = -2.0  # as a defence might
    observation = replace(seen, tensors={**seen.tensors, "readout.bias": bias})
    (answer,) = laboratory.attack("inverting-gradients", [observation], restarts=3, iterations=3)
    right = int(laboratory.labels[12])
    assert answer.labels[:, 0].tolist() == [wrong, right, wrong]


def test_a_batch_without_granted_labels_is_refused_by_the_rule(laboratory) -> None:
    seen = [laboratory.victim([1, 2], model=SIGMOID)]
    for name in ("idlg", "inverting-gradients"):
        with pytest.raises(KnowledgeError, match="'labels'"):
            laboratory.attack(name, seen, iterations=2, labels="rule")


def test_victims_of_several_kinds_are_attacked_in_one_call(laboratory) -> None:
    seen = [
        laboratory.victim([1], model=SIGMOID, client=0),
        laboratory.victim([2, 3], model=SIGMOID, client=1),
        laboratory.victim([4], model=SPIKING, encoding=EncodingSpec(n_steps=3), client=2),
    ]
    known = [Knowledge(labels=laboratory.truths[o.ticket].labels) for o in seen]
    told = []
    answers = laboratory.attack(
        "idlg", seen, known=known, iterations=4, progress=lambda *facts: told.append(facts[:2])
    )
    assert [a.ticket for a in answers] == [o.ticket for o in seen]
    assert [a.candidates.shape[1] for a in answers] == [1, 2, 1]
    assert told[-1] == (12, 12)


def test_joint_labels_are_for_dlg(laboratory) -> None:
    with pytest.raises(ConfigError, match="joint"):
        laboratory.attack("inverting-gradients", [], iterations=1, labels="joint")
