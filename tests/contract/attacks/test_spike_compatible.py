"""Flipping spikes until the gradient fits."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.optimisers import flip_spikes  # noqa: E402
from fedcore.data.encodings import encode  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec  # noqa: E402
from fedcore.seeds import stream  # noqa: E402

pytestmark = pytest.mark.torch

MLP = ModelSpec(name="mlp", spiking=True, init_gain=2.0, options={"hidden": [64]})
RATE = EncodingSpec(name="rate", n_steps=4)
VICTIMS = range(100, 103)


def draws(shape: tuple[int, int]):
    rng = stream(0, "draws")
    return lambda: torch.from_numpy(rng.random(shape, np.float32))


def test_flips_reach_the_corner_that_the_gradient_shows() -> None:
    target = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
    seen = []

    def evaluate(x):
        seen.append(x)
        return ((x - target) ** 2).sum(1), 2 * (x - target)

    start = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = flip_spikes(
        evaluate,
        start,
        n_evaluations=20,
        share=1.0,
        blind_share=0.5,
        draw=draws((2, 4)),
        on_evaluation=lambda *_: None,
    )
    assert torch.equal(found.candidates, target)
    assert found.losses.tolist() == [0.0, 0.0]
    assert found.n_evaluations == len(seen) == 20
    assert all(set(x.unique().tolist()) <= {0.0, 1.0} for x in seen)


def test_where_there_is_no_gradient_spikes_flip_at_random() -> None:
    seen = []

    def evaluate(x):
        seen.append(x)
        return torch.full((1,), float(len(seen))), torch.zeros_like(x)  # never better

    start = torch.zeros(1, 2000)
    found = flip_spikes(
        evaluate,
        start,
        n_evaluations=4,
        share=1.0,
        blind_share=0.05,
        draw=draws((1, 2000)),
        on_evaluation=lambda *_: None,
    )
    assert torch.equal(found.candidates, start)
    for flipped in seen[1:]:
        expected, deviation = 0.05 * 2000, math.sqrt(0.05 * 0.95 * 2000)
        assert abs(float(flipped.sum()) - expected) < 5 * deviation


def test_the_flipped_spikes_tell_of_the_true_ones(laboratory) -> None:
    """More than any guess of as many spikes; fewer right bits than silence, which is the point."""
    seen = [laboratory.victim([i], model=MLP, encoding=RATE, client=i) for i in VICTIMS]
    lifts = []
    for i, answer in zip(
        VICTIMS, laboratory.attack("spike-compatible", seen, iterations=200), strict=True
    ):
        truth = encode(RATE, laboratory.images[[i]], stream(i, "secret"))
        found = answer.trains[answer.chosen]
        assert found.shape == truth.shape
        assert set(np.unique(found)) <= {0.0, 1.0}
        np.testing.assert_allclose(answer.candidates[0], found.mean(axis=0))
        assert answer.losses[0] < 0.5 * answer.loss_curves[0, 0]
        lifts.append(truth[found == 1].mean() / truth.mean())
    assert np.mean(lifts) > 1.15


@pytest.mark.parametrize(
    ("encoding", "options"), [("direct", {}), ("delta", {}), ("events", {"binary": False})]
)
def test_a_train_that_is_not_binary_is_refused(encoding: str, options, laboratory) -> None:
    spec = EncodingSpec(name=encoding, n_steps=4, options=options)
    frames = np.stack([laboratory.images[[8]]] * 4, axis=1)
    inputs = laboratory.images[[8]] if encoding == "direct" else frames
    seen = [laboratory.victim([8], model=MLP, encoding=spec, inputs=inputs)]
    (answer,) = laboratory.attack("spike-compatible", seen, iterations=2)
    assert repr(encoding) in answer.failed


@pytest.mark.parametrize("options", [{"share": 0.0}, {"blind_share": 1.5}, {"labels": "joint"}])
def test_odd_options_are_refused(options, laboratory) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        laboratory.attack("spike-compatible", [], iterations=1, **options)
