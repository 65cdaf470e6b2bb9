"""Laws of the LIF neuron: closed forms, and one step at a time equals the whole train."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fedcore.nn.neurons.base import Neuron
from fedcore.nn.neurons.lif import Lif, LifState, leaky_sum
from fedcore.nn.surrogates import SURROGATES, smooth
from fedcore.plan import NeuronSpec

pytestmark = pytest.mark.torch

specs = st.builds(
    NeuronSpec,
    decay=st.floats(0.1, 1.0),
    threshold=st.floats(0.25, 2.0),
    reset=st.sampled_from(["subtract", "zero"]),
    detach_reset=st.booleans(),
    surrogate=st.sampled_from(sorted(SURROGATES)),
    sharpness=st.floats(0.5, 30.0),
)


def random_currents(seed, *, n_steps, n_neurons=7):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n_steps, 2, n_neurons, dtype=torch.float64, generator=draw) + 0.4


def constant(current, *, n_steps):
    return torch.full((n_steps, 1, 1), current, dtype=torch.float64)


@given(st.floats(0.1, 0.99), st.floats(0.01, 2.0), st.integers(1, 40))
def test_under_a_constant_current_the_first_spike_comes_when_the_closed_form_says(
    decay, current, n_steps
):
    v = [current * (1 - decay ** (t + 1)) / (1 - decay) for t in range(n_steps)]
    assume(all(abs(x - 1) > 1e-9 for x in v))
    spikes = Lif(NeuronSpec(decay=decay)).run(constant(current, n_steps=n_steps)).flatten()
    first = next((t for t, x in enumerate(v) if x > 1), None)
    assert not spikes[:first].any()
    assert first is None or spikes[first] == 1


@given(st.floats(0.1, 0.99), st.floats(0.02, 2.0))
def test_reset_to_zero_makes_a_constant_current_periodic(decay, current):
    spec = NeuronSpec(decay=decay, reset="zero")
    spikes = Lif(spec).run(constant(current, n_steps=60)).flatten().nonzero().flatten().tolist()
    if spikes:
        period = spikes[0] + 1
        assert spikes == list(range(period - 1, 60, period))


@given(st.integers(0, 16), st.integers(1, 50))
def test_without_leak_the_spikes_count_the_charge(sixteenths, n_steps):
    """decay 1, reset by subtraction: after T steps of I <= 1, floor(T I) spikes."""
    spikes = Lif(NeuronSpec(decay=1.0)).run(constant(sixteenths / 16, n_steps=n_steps))
    assert int(spikes.sum()) == sixteenths * n_steps // 16


@given(specs, st.integers(0, 2**31), st.integers(1, 12))
def test_subtraction_conserves_charge(spec, seed, n_steps):
    """u[T] = sum of decay^(T-t) (I[t] - threshold s[t]), summed without the recursion."""
    assume(spec.reset == "subtract")
    neuron, currents = Lif(spec), random_currents(seed, n_steps=n_steps)
    state = neuron.initial(currents[0])
    balance = torch.zeros_like(currents[0])
    for t, current in enumerate(currents):
        spikes, state = neuron.step(current, state)
        balance += spec.decay ** (n_steps - 1 - t) * (current - spec.threshold * spikes)
    torch.testing.assert_close(state.u, balance)


@given(specs, st.integers(0, 2**31), st.integers(1, 12))
def test_one_step_at_a_time_equals_the_whole_train(spec, seed, n_steps):
    """Spikes, and gradients of the first and second order."""
    weights = random_currents(seed + 1, n_steps=n_steps)
    seen = []
    for run in (Lif.run, Neuron.run):
        currents = random_currents(seed, n_steps=n_steps).requires_grad_()
        spikes = run(Lif(spec), currents)
        (first,) = torch.autograd.grad((spikes * weights).sum(), currents, create_graph=True)
        second = torch.zeros_like(first)
        if first.requires_grad:  # a rectangle's slope is a constant
            (second,) = torch.autograd.grad(first.square().sum(), currents)
        seen.append((spikes.detach(), first.detach(), second))
    (spikes, first, second), (slow_spikes, slow_first, slow_second) = seen
    assert torch.equal(spikes, slow_spikes)
    torch.testing.assert_close(first, slow_first, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(second, slow_second, rtol=1e-7, atol=1e-7)


@given(specs, st.integers(0, 2**31), st.integers(2, 12))
def test_a_train_can_be_cut_anywhere(spec, seed, n_steps):
    neuron, currents = Lif(spec), random_currents(seed, n_steps=n_steps)
    whole = neuron.run(currents)
    state: LifState = neuron.initial(currents[0])
    for current in currents[:-1]:
        _, state = neuron.step(current, state)
    last, _ = neuron.step(currents[-1], state)
    assert torch.equal(last, whole[-1])


@given(st.floats(0.1, 1.0), st.integers(0, 2**31), st.integers(1, 12))
def test_leaky_sum_is_the_recursion(decay, seed, n_steps):
    currents = random_currents(seed, n_steps=n_steps)
    v, membrane = torch.zeros_like(currents[0]), []
    for current in currents:
        v = decay * v + current
        membrane.append(v)
    torch.testing.assert_close(leaky_sum(currents, decay=decay), torch.stack(membrane))


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("kind", ["fast_sigmoid", "arctan", "sigmoid"])
def test_gradient_is_finite_differences_on_the_smooth_form(monkeypatch, reset, kind):
    """With the step replaced by its primitive, the neuron is an ordinary smooth function."""
    monkeypatch.setattr("fedcore.nn.neurons.lif.spike", smooth)
    neuron = Lif(NeuronSpec(reset=reset, detach_reset=False, surrogate=kind, sharpness=2.0))
    currents = random_currents(3, n_steps=4, n_neurons=2).requires_grad_()
    assert torch.autograd.gradcheck(neuron.run, currents)
    assert torch.autograd.gradgradcheck(neuron.run, currents)


def test_detaching_the_reset_changes_the_gradient_and_nothing_else():
    def run(*, detach_reset):
        currents = random_currents(5, n_steps=6).requires_grad_()
        spikes = Lif(NeuronSpec(detach_reset=detach_reset)).run(currents)
        (slope,) = torch.autograd.grad(spikes.sum(), currents)
        return spikes.detach(), slope

    (spikes, slope), (same_spikes, other_slope) = run(detach_reset=True), run(detach_reset=False)
    assert torch.equal(spikes, same_spikes)
    assert float((slope - other_slope).abs().max()) > 1e-3
    assert math.isfinite(float(other_slope.abs().max()))
