"""Attacks that search the weights of an untrained generator."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.attacks.deep_prior import DeepPrior  # noqa: E402
from attacker.attacks.gi_nas import StructureSearch  # noqa: E402
from attacker.attacks.gion import OverParameterised  # noqa: E402
from attacker.generators.base import Canvas, Generated  # noqa: E402
from attacker.generators.growing import gated, over_parameterised  # noqa: E402
from attacker.generators.hourglass import Hourglass  # noqa: E402
from attacker.generators.structure import random_structure  # noqa: E402
from attacker.inputs import input_view  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import Knowledge  # noqa: E402

pytestmark = pytest.mark.torch

NAMES = ("deep-prior", "gi-nas", "gion", "grnn")
LINEAR = ModelSpec(name="mlp", options={"hidden": []})
SHAPES = [(1, 8, 8), (2, 7, 12), (3, 28, 17), (9, 37), (1, 1, 5)]


def canvas_of(shape: tuple[int, ...], *, batch: int = 2, encoding: str = "direct") -> Canvas:
    spec = EncodingSpec(name=encoding, n_steps=3)
    return Canvas(view=input_view(spec, input_shape=shape, batch_size=batch))


def generators(canvas: Canvas) -> list[Generated]:
    """One of each kind, and hourglasses of many structures."""
    n_levels = max(1, canvas.n_doublings)
    sides = [side * 2**n_levels for side in canvas.halved(n_levels)]
    structures = [
        random_structure(stream(i, "structure"), n_levels=n_levels, n_spatial=canvas.n_spatial)
        for i in range(8)
    ]
    growing = [
        Generated.by(
            partial(kind, canvas, n_latent=16, channels=4),
            canvas=canvas,
            latent_shape=(canvas.n_examples, 16),
            seed=0,
        )
        for kind in (gated, over_parameterised)
    ]
    return growing + [
        Generated.by(
            partial(Hourglass, canvas, structure, n_latent=4, channels=4, n_levels=n_levels),
            canvas=canvas,
            latent_shape=(canvas.n_examples, 4, *sides),
            seed=0,
        )
        for structure in structures
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_generator_draws_is_a_candidate_row_by_row(shape: tuple[int, ...]) -> None:
    canvas = canvas_of(shape)
    for generated in generators(canvas):
        draws = torch.randn(3, generated.n_variables, generator=torch.manual_seed(0))
        rows = generated.begin(draws)
        drawn = torch.func.vmap(generated.candidate)(rows)
        assert drawn.shape == (3, *canvas.view.shape)
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        assert drawn.std() > 0.01
        assert (drawn[0] - drawn[1]).abs().max() > 0.01
        alone = torch.stack([generated.candidate(row) for row in rows])
        torch.testing.assert_close(drawn, alone, atol=1e-5, rtol=1e-4)


def test_a_train_is_drawn_with_steps_and_channels_side_by_side() -> None:
    canvas = canvas_of((2, 4, 5), encoding="latency")
    assert (canvas.n_examples, canvas.n_channels, canvas.space) == (2, 6, (4, 5))
    drawn = torch.arange(2 * 6 * 6 * 5).reshape(2, 6, 6, 5) / 100
    train = canvas.candidate(drawn)
    assert train.shape == (3, 2, 2, 4, 5)
    torch.testing.assert_close(train[2, 1, 0], drawn[1, 4, 1:5].sigmoid())


def test_sides_of_any_length_are_covered() -> None:
    for side in range(1, 70):
        canvas = canvas_of((1, side, side + 3))
        for n in range(canvas.n_doublings + 1):
            covered = [s * 2**n for s in canvas.halved(n)]
            assert all(c >= s for c, s in zip(covered, canvas.space, strict=True))
            assert all(c < s + 2**n for c, s in zip(covered, canvas.space, strict=True))


def test_a_search_begins_with_plain_normalisations() -> None:
    canvas = canvas_of((1, 8, 8))
    (first, *_) = generators(canvas)
    zeros = first.begin(torch.zeros(1, first.n_variables))
    assert set(zeros.unique().tolist()) == {0.0, 1.0}
    named = first.networks.named_parameters()
    n_gains = sum(p.numel() for name, p in named if p.dim() == 1 and name.endswith("weight"))
    assert int(zeros.sum()) == n_gains > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_linear_models_inputs_are_recovered(name: str, laboratory) -> None:
    seen = [laboratory.victim([i], model=LINEAR, client=i) for i in range(3)]
    known = [Knowledge(labels=laboratory.truths[o.ticket].labels) for o in seen]
    answers = laboratory.attack(
        name, seen, known=known, labels="granted", channels=8, iterations=80
    )
    assert np.mean([laboratory.psnr_db(answer) for answer in answers]) >= 20  # mean image: 12


def test_the_label_branch_finds_the_labels(laboratory) -> None:
    seen = [laboratory.victim([i], model=LINEAR, client=i) for i in range(3)]
    answers = laboratory.attack("grnn", seen, iterations=60)
    assert all(laboratory.labels_are_right(answer) for answer in answers)
    assert all(answer.labels_from == "joint" for answer in answers)


def test_a_victims_structure_is_the_best_of_its_candidates(laboratory) -> None:
    seen = [laboratory.victim([i], model=LINEAR, round=i, client=i) for i in range(3)]
    together, more = (
        laboratory.attack("gi-nas", seen, iterations=1, restarts=2, candidates=n) for n in (4, 8)
    )
    for few, many in zip(together, more, strict=True):
        key = "loss before any step"
        assert many.certificate[key] <= few.certificate[key] * (1 + 1e-5)
        assert few.certificate["structure"] < 4
        np.testing.assert_allclose(few.certificate[key], few.losses.mean(), rtol=1e-3)
    for observation, answer in zip(seen, together, strict=True):
        (alone,) = laboratory.attack(
            "gi-nas", [observation], iterations=1, restarts=2, candidates=4
        )
        assert alone.certificate["structure"] == answer.certificate["structure"]


def test_channels_double_until_there_are_enough_weights() -> None:
    few = OverParameterised(channels=4).searched(canvas_of((1, 8, 8)).view, n_classes=10, seed=0)
    many = canvas_of((1, 64, 64), batch=8)
    found = OverParameterised(channels=4).searched(many.view, n_classes=10, seed=0)
    assert found.n_variables > 4 * 8 * 64 * 64 > 10 * few.n_variables


def test_structures_do_not_depend_on_how_many_are_drawn() -> None:
    view = canvas_of((1, 32, 32)).view
    three, five = (StructureSearch(candidates=n).generators(view, seed=3) for n in (3, 5))
    sizes = [[g.n_variables for g in found] for found in (three, five)]
    assert sizes[1][:3] == sizes[0]
    assert len(set(sizes[1])) > 1


def test_bad_options_are_refused() -> None:
    for channels in (0, 6):
        with pytest.raises(ConfigError, match="channels"):
            OverParameterised(channels=channels)
    with pytest.raises(ConfigError, match="candidates"):
        StructureSearch(candidates=0)
    with pytest.raises(ConfigError, match="levels"):
        DeepPrior(levels=0)
    with pytest.raises(ConfigError, match="joint"):
        DeepPrior(labels="joint")
