"""Matching with a surrogate of the attacker's own, and for the train where the draw is secret."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from attacker.attacks.relaxed import RelaxedMatching  # noqa: E402
from attacker.inputs import draws_view, train_view  # noqa: E402
from attacker.local_steps import LocalSteps  # noqa: E402
from attacker.objectives import cosine_distance  # noqa: E402
from fedcore.data.encodings import encode  # noqa: E402
from fedcore.errors import AttackError, ConfigError  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient  # noqa: E402
from fedcore.nn.models import build  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402

pytestmark = pytest.mark.torch

CONV = ModelSpec(name="convnet", spiking=True, init_gain=2.5)
MLP = ModelSpec(name="mlp", spiking=True, init_gain=2.0, options={"hidden": [64]})
DIRECT = EncodingSpec(n_steps=4)
RATE = EncodingSpec(name="rate", n_steps=6)
VICTIMS = range(100, 103)


def test_the_values_are_the_victims_and_the_derivatives_the_attackers(laboratory) -> None:
    seen = laboratory.victim([3], model=CONV, encoding=DIRECT)
    steps, params = LocalSteps.behind(seen), to_tensors(seen.weights)
    label = F.one_hot(to_tensor(laboratory.labels[[3]]), 10).to(torch.float32)
    image = to_tensor(laboratory.images[[3]])[None].requires_grad_()

    def slope(sharpness: float, update) -> tuple[dict, torch.Tensor]:
        network = build(replace(CONV, neuron=replace(CONV.neuron, sharpness=sharpness)))
        found = update(network, params, image.expand(4, *image.shape[1:]), label)
        weighted = sum((i + 1) * t.sum() for i, t in enumerate(found.values()))
        return found, torch.autograd.grad(weighted, image)[0]

    relaxed = RelaxedMatching(sharpness=(2.0,)).update(steps, CONV, build)
    found, found_slope = slope(CONV.neuron.sharpness, relaxed)
    exact, _ = slope(CONV.neuron.sharpness, steps.update)
    soft, soft_slope = slope(2.0, steps.update)
    for name in exact:
        torch.testing.assert_close(found[name], exact[name])
    torch.testing.assert_close(found_slope, soft_slope)
    assert any(not torch.allclose(soft[name], exact[name], rtol=0.1) for name in exact)


def test_the_true_image_has_no_loss_and_no_slope(laboratory) -> None:
    """A softer surrogate moves no minimum."""
    seen = laboratory.victim([3], model=CONV, encoding=DIRECT)
    relaxed = RelaxedMatching().update(LocalSteps.behind(seen), CONV, build)
    label = F.one_hot(to_tensor(laboratory.labels[[3]]), 10).to(torch.float32)

    def loss_and_slope(image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = to_tensor(image)[None].requires_grad_()
        inputs = leaf.expand(4, *leaf.shape[1:])
        found = relaxed(build(CONV), to_tensors(seen.weights), inputs, label)
        loss = cosine_distance(found, to_tensors(seen.tensors))
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    loss, slope = loss_and_slope(laboratory.images[[3]])
    assert abs(float(loss)) < 1e-5
    _, elsewhere = loss_and_slope(0.5 * laboratory.images[[3]])
    assert float(slope.norm()) < 1e-2 * float(elsewhere.norm())


def test_relaxed_matching_gets_further_than_inverting_gradients(laboratory) -> None:
    seen = [laboratory.victim([i], model=CONV, encoding=DIRECT, client=i) for i in VICTIMS]
    relaxed, plain = (
        laboratory.attack(name, seen, iterations=100, total_variation=0.01)
        for name in ("relaxed-matching", "inverting-gradients")
    )
    gains_db = [
        laboratory.psnr_db(r) - laboratory.psnr_db(p) for r, p in zip(relaxed, plain, strict=True)
    ]
    assert np.mean(gains_db) >= 1.5
    for r, p in zip(relaxed, plain, strict=True):  # measured alike, on the victim's network
        assert r.losses.min() < 0.5 * p.losses.min()


def test_restarts_take_the_sharpnesses_in_turn(laboratory) -> None:
    seen = [laboratory.victim([i], model=CONV, encoding=DIRECT, client=i) for i in VICTIMS]
    told = []
    answers = laboratory.attack(
        "relaxed-matching",
        seen,
        restarts=3,
        iterations=5,
        sharpness=[2.0, 5.0],
        progress=lambda done, total, _: told.append((done, total)),
    )
    assert all(answer.candidates.shape == (3, 1, 1, 8, 8) for answer in answers)
    assert all(answer.losses.shape == (3,) for answer in answers)
    assert told == [(n, 10) for n in range(1, 11)]
    (soft,) = laboratory.attack(
        "relaxed-matching", seen[:1], restarts=2, iterations=5, sharpness=[2.0]
    )
    np.testing.assert_allclose(answers[0].losses[:2], soft.losses, rtol=1e-4)


def test_a_network_without_spikes_is_refused(laboratory) -> None:
    seen = [
        laboratory.victim([0], model=replace(CONV, spiking=False)),
        laboratory.victim([1], model=CONV, encoding=DIRECT, client=1),
    ]
    refused, attacked = laboratory.attack("relaxed-matching", seen, iterations=2)
    assert "does not spike" in refused.failed
    assert not attacked.failed


def test_a_search_for_the_train_of_a_direct_encoding_is_refused(laboratory) -> None:
    seen = [laboratory.victim([1], model=CONV, encoding=DIRECT)]
    (answer,) = laboratory.attack("relaxed-matching", seen, iterations=2, search_for="train")
    assert "'direct'" in answer.failed
    with pytest.raises(AttackError, match="'direct'"):
        train_view(DIRECT, input_shape=(4,), batch_size=1, is_binary=False)


@pytest.mark.parametrize("options", [{"sharpness": []}, {"sharpness": [0.0]}, {"n_draws": 0}])
def test_options_must_be_positive(options, laboratory) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        laboratory.attack("relaxed-matching", [], iterations=1, **options)


def test_the_very_train_of_a_rate_coded_input_is_a_perfect_match(laboratory) -> None:
    seen = laboratory.victim([3], model=MLP, encoding=RATE)
    train = to_tensor(encode(RATE, laboratory.images[[3]], stream(0, "secret")))
    for is_binary in (False, True):
        view = train_view(RATE, input_shape=(1, 8, 8), batch_size=1, is_binary=is_binary)
        assert view.shape == train.shape
        assert torch.equal(view.to_network(train), train)
        found = gradient(
            build(MLP),
            to_tensors(seen.weights),
            view.to_network(train),
            to_tensor(laboratory.labels[[3]]),
        )
        for name, slope in to_arrays(found).items():
            np.testing.assert_allclose(slope, seen.tensors[name], atol=1e-6)
        torch.testing.assert_close(view.to_raw(train), train.mean(0))


def test_searching_for_spikes_rounds_and_learns_as_if_it_did_not() -> None:
    view = train_view(RATE, input_shape=(3,), batch_size=1, is_binary=True)
    candidate = torch.rand(view.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    given = view.to_network(candidate)
    assert set(given.detach().unique().tolist()) == {0.0, 1.0}
    (slope,) = torch.autograd.grad((3 * given).sum(), candidate)
    torch.testing.assert_close(slope, torch.full_like(slope, 3.0))


def test_draws_give_the_mean_gradient_over_trains_of_the_image(laboratory) -> None:
    seen = laboratory.victim([3, 4], model=MLP, encoding=RATE)
    params, images = to_tensors(seen.weights), to_tensor(laboratory.images[[3, 4]])
    labels = F.one_hot(to_tensor(laboratory.labels[[3, 4]]), 10).to(torch.float32)
    view = draws_view(RATE, input_shape=(1, 8, 8), batch_size=2, n_draws=3)
    trains = view.to_network(images)
    assert set(trains.unique().tolist()) == {0.0, 1.0}
    relaxed = RelaxedMatching(search_for="draws").update(LocalSteps.behind(seen), MLP, build)
    found = to_arrays(relaxed(build(MLP), params, trains, labels))
    alone = [
        to_arrays(gradient(build(MLP), params, train, labels)) for train in trains.split(2, dim=1)
    ]
    for name, slope in found.items():
        expected = np.mean([one[name] for one in alone], axis=0)
        np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_what_draws_nothing_is_refused(laboratory) -> None:
    direct = laboratory.victim([1], model=MLP, encoding=DIRECT)
    rated = laboratory.victim([1], model=MLP, encoding=RATE, client=1)
    training = Training(update="delta", batch_size=1, local_steps=3)
    steps = replace(rated, kind="delta", n_examples=3, plan=replace(rated.plan, training=training))
    for seen, why in ((direct, "'direct'"), (steps, "3 local steps")):
        (answer,) = laboratory.attack("relaxed-matching", [seen], iterations=2, search_for="draws")
        assert why in answer.failed
    (answer,) = laboratory.attack("relaxed-matching", [rated], iterations=2, search_for="draws")
    assert not answer.failed


@pytest.mark.parametrize("search_for", ["train", "spikes"])
def test_a_train_is_shown_beside_the_input(search_for: str, laboratory) -> None:
    seen = [laboratory.victim([3], model=MLP, encoding=RATE)]
    (answer,) = laboratory.attack(
        "relaxed-matching", seen, restarts=2, iterations=20, search_for=search_for
    )
    assert answer.trains.shape == (2, 6, 1, 1, 8, 8)
    np.testing.assert_allclose(answer.candidates, answer.trains.mean(axis=1), atol=1e-6)
    if search_for == "spikes":
        assert set(np.unique(answer.trains)) <= {0.0, 1.0}
    (expected,) = laboratory.attack("relaxed-matching", seen, iterations=2)
    assert expected.trains is None
