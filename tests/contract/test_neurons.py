"""The contract of every registered neuron."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest

pytest.importorskip("torch")

import torch

from fedcore.errors import ConfigError
from fedcore.nn.neurons import NEURONS
from fedcore.nn.neurons.base import Neuron
from fedcore.nn.surrogates import SURROGATES
from fedcore.plan import NeuronSpec

pytestmark = [pytest.mark.torch, pytest.mark.parametrize("name", NEURONS.names())]

RESETS = list(product(["subtract", "zero"], [True, False]))
ONLY_RESET = {"slayer-cuba": ("zero", True)}
NEEDED = {name: {"reset": reset} for name, (reset, _) in ONLY_RESET.items()}


def build(name, **options):
    return NEURONS.get(name)(NeuronSpec(name=name, **{**NEEDED.get(name, {}), **options}))


def some_currents():
    draw = torch.Generator().manual_seed(2)
    return torch.rand(9, 2, 3, 4, 4, generator=draw)


def test_spikes_are_binary_and_keep_shape_and_dtype(name):
    for dtype in (torch.float32, torch.float64):
        currents = some_currents().to(dtype)
        spikes = build(name).run(currents)
        assert spikes.shape == currents.shape
        assert spikes.dtype == dtype
        assert spikes.unique().tolist() == [0.0, 1.0]


def test_run_is_step_after_step(name):
    neuron, currents = build(name), some_currents()
    assert torch.equal(neuron.run(currents), Neuron.run(neuron, currents))


def test_a_train_does_not_depend_on_the_one_before(name):
    """State is an argument and a result; nothing stays inside."""
    neuron, currents = build(name), some_currents()
    first = neuron.run(currents)
    neuron.run(-currents)
    assert torch.equal(neuron.run(currents), first)


def test_examples_of_a_batch_do_not_meet(name):
    neuron, currents = build(name), some_currents()
    alone = torch.cat([neuron.run(currents[:, i : i + 1]) for i in range(2)], dim=1)
    assert torch.equal(neuron.run(currents), alone)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(("reset", "detach_reset"), RESETS)
def test_gradients_of_two_orders_exist_and_are_finite_under_vmap(
    name, surrogate, reset, detach_reset
):
    settings = {"surrogate": surrogate, "reset": reset, "detach_reset": detach_reset}
    if (reset, detach_reset) != ONLY_RESET.get(name, (reset, detach_reset)):
        with pytest.raises(ConfigError, match="'zero' and detach_reset = true"):
            build(name, **settings)
        return
    neuron = build(name, **settings)

    def steepness(currents):
        slope = torch.func.grad(lambda x: neuron.run(x).square().sum())(currents)
        return slope.square().sum()

    both = torch.func.vmap(torch.func.grad_and_value(steepness))
    currents = some_currents()
    currents[0, 0, 0, 0, 0] = neuron.spec.threshold  # fires exactly at the threshold
    curvature, steep = both(torch.stack([currents, currents * 0.5]))
    assert bool((steep > 0).all())
    assert bool(torch.isfinite(curvature).all())


def test_the_spec_is_kept(name):
    spec = NeuronSpec(name=name, **NEEDED.get(name, {}), decay=0.5)
    assert dataclasses.asdict(NEURONS.get(name)(spec).spec) == dataclasses.asdict(spec)


def test_an_unknown_option_is_refused_by_name(name):
    with pytest.raises(ConfigError, match="colour"):
        build(name, options={"colour": 1})
