"""SLAYER's neuron by hand; tests/golden/test_slayer_twin.py holds it against SLAYER itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from fedcore.errors import ConfigError  # noqa: E402
from fedcore.nn.arrays import to_tensors  # noqa: E402
from fedcore.nn.functional import gradient, logits, loss  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.nn.neurons.base import Neuron  # noqa: E402
from fedcore.nn.neurons.slayer_cuba import SlayerCuba  # noqa: E402
from fedcore.plan import ModelSpec, NeuronSpec  # noqa: E402

pytestmark = pytest.mark.torch

NEURON = NeuronSpec(
    name="slayer-cuba",
    decay=0.9,
    threshold=1.3,
    reset="zero",
    surrogate="exponential",
    sharpness=0.5,
    options={"current_decay": 0.2, "scale_grad": 5.0},
)
MODEL = ModelSpec(name="mlp", spiking=True, readout="spike_count", neuron=NEURON, init_gain=4.0)


def with_options(spec=NEURON, **options):
    return replace(spec, options={**spec.options, **options})


def some_currents(*, scale=1.0):
    draw = torch.Generator().manual_seed(3)
    return scale * torch.randn(30, 2, 40, generator=draw)


def times_and_shift(number: int, keep: int) -> int:
    """number * keep / 4096, rounded to zero, in whole numbers only."""
    return -(-number * keep >> 12) if number < 0 else number * keep >> 12


def spikes_in_whole_numbers(currents: list[float], *, keep_i: int, keep_v: int, above: int):
    i = r = 0
    for current in currents:
        i = times_and_shift(i, keep_i) + math.trunc(4096 * current)
        v = times_and_shift(r, keep_v) + i
        yield float(v > above)
        r = 0 if v > above else v


@pytest.mark.parametrize("scale", [0.3, 3.0, 100.0])
def test_it_counts_in_whole_numbers(scale):
    neuron, currents = SlayerCuba(with_options(delay_shift=False)), some_currents(scale=scale)
    spikes = neuron.run(currents)
    assert 0.02 < float(spikes.mean()) < 0.98
    # 0.2 and 0.1 of 4096 are 819.2 and 409.6; 1.3 of 64 is 83.2.
    numbers = {"keep_i": 4096 - 819, "keep_v": 4096 - 410, "above": 83 * 64}
    for neuron_at in range(currents.shape[2]):
        train = currents[:, 0, neuron_at].tolist()
        assert spikes[:, 0, neuron_at].tolist() == list(spikes_in_whole_numbers(train, **numbers))


def test_it_fires_above_the_threshold_and_not_at_it():
    neuron = SlayerCuba(replace(with_options(delay_shift=False), threshold=1.25))
    assert neuron.run(torch.tensor([[[1.25, 1.25 + 1 / 4096]]])).tolist() == [[[0.0, 1.0]]]


def test_a_spike_leaves_one_step_later():
    at_once = SlayerCuba(with_options(delay_shift=False)).run(some_currents())
    later = SlayerCuba(NEURON).run(some_currents())
    assert not bool(later[0].any())
    assert torch.equal(later[1:], at_once[:-1])


def test_derivatives_of_a_single_step_are_the_stated_ones():
    neuron = SlayerCuba(with_options(delay_shift=False))
    for current in (-2.0, 1.0, 1.5, 4.0):
        x = torch.tensor([[[current]]], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(neuron.run(x).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
        distance = math.trunc(4096 * current) / 4096 - (83 / 64 + 0.01 / 4096)
        stated = 0.5 * 0.25 * math.exp(-0.5 * abs(distance))
        assert slope.item() == pytest.approx(stated, rel=1e-12)
        assert float(curvature) == pytest.approx(math.copysign(0.5, -distance) * stated, rel=1e-12)


def test_the_whole_train_has_the_gradients_of_its_steps():
    """Of both orders: an attacker differentiates the client's gradient."""
    neuron, weights = SlayerCuba(NEURON), torch.linspace(-1, 1, 30 * 2 * 40).reshape(30, 2, 40)

    def derivatives(run):
        x = some_currents().double().requires_grad_()
        (slope,) = torch.autograd.grad((run(x) * weights).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), x)
        return slope.detach(), curvature

    of_steps = derivatives(lambda x: Neuron.run(neuron, x))
    for ours, theirs in zip(derivatives(neuron.run), of_steps, strict=True):
        assert float(theirs.abs().max()) > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_weights_are_rounded_to_eight_bits_and_learn_within_their_range():
    step = 1 / 32
    weights = torch.tensor([0.4, 0.5, 0.6, -1.5, 127.4, 127.6, 300.0, -128.4, -128.6]) * step
    rounded = torch.tensor([0.0, 0.0, 1.0, -2.0, 127.0, 127.0, 127.0, -128.0, -128.0]) * step
    learns = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    synaptic = SlayerCuba(NEURON).synaptic
    assert torch.equal(synaptic(weights), rounded)
    slopes = torch.func.grad(lambda w: synaptic(w).sum())
    assert torch.equal(slopes(weights), learns)
    assert torch.equal(torch.func.vmap(slopes)(weights[None]), learns[None])
    free = SlayerCuba(with_options(quantise_weights=False)).synaptic
    assert torch.equal(free(weights), weights)


@pytest.mark.parametrize("name", ["mlp", "convnet", "lenet"])
def test_both_twins_have_slayers_parameters(name):
    spiking = replace(MODEL, name=name)
    shapes = {n: tuple(p.shape) for n, p in build(spiking).named_parameters()}
    conventional = build(replace(spiking, spiking=False))
    assert shapes == {n: tuple(p.shape) for n, p in conventional.named_parameters()}
    assert all(n.endswith(".weight") for n in shapes)
    assert initial_weights(spiking, 1).keys() == shapes.keys()


def test_only_the_spiking_twin_rounds_its_weights():
    params = to_tensors(initial_weights(MODEL, 1))
    rounded = {n: torch.round(w * 32) / 32 for n, w in params.items()}
    inputs = (torch.rand(8, 3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    assert torch.equal(logits(build(MODEL), params, inputs), logits(build(MODEL), rounded, inputs))
    ann = build(replace(MODEL, spiking=False))
    assert not torch.equal(logits(ann, params, inputs), logits(ann, rounded, inputs))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "vgg-small"}, "block1b_pool"),
        ({"options": {"normalisation": "batch-train"}}, "hidden1_norm"),
        ({"name": "bottleneck"}, "code"),
        ({"readout": "membrane_mean"}, "readout_neurons"),
        ({"readout": "per_step"}, "ends without it"),
        ({"readout": "per_step", "options": {"hidden": []}}, "ends without it"),
    ],
)
def test_a_network_that_slayer_does_not_have_is_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=f"neuron 'slayer-cuba' stands .*{named}"):
        build(replace(MODEL, **changes))


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (replace(NEURON, reset="subtract"), "reset = 'zero'"),
        (replace(NEURON, detach_reset=False), "detach_reset = true"),
        (replace(NEURON, threshold=64.0), "got 64.0"),
        (replace(NEURON, threshold=0.01), "got 0.01"),
        (with_options(current_decay=1.5), "current_decay"),
        (with_options(scale_grad=0.0), "scale_grad"),
        (with_options(persistent_state=True), "unknown key 'persistent_state'"),
    ],
)
def test_what_slayer_would_not_do_is_refused_by_name(spec, named):
    with pytest.raises(ConfigError, match=named):
        SlayerCuba(spec)


def test_another_surrogate_runs_here_but_has_no_name_in_slayer():
    neuron = SlayerCuba(replace(NEURON, surrogate="arctan"))
    assert bool(neuron.run(some_currents()).any())
    with pytest.raises(ConfigError, match="'exponential' only; got 'arctan'"):
        neuron.slayer_parameters()


def test_it_learns_real_digits():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.as_tensor(digits.images[:64] / 16, dtype=torch.float32)[:, None]
    draw = torch.Generator().manual_seed(1)
    inputs = (torch.rand(12, *images.shape, generator=draw) < images).float()
    labels = torch.as_tensor(digits.target[:64])
    spec = replace(MODEL, options={"hidden": [32]})
    model, params = build(spec), to_tensors(initial_weights(spec, 1))
    before = float(loss(model, params, inputs, labels))
    optimiser = torch.optim.Adam(params.values(), lr=0.03)
    for _ in range(15):
        for name, slope in gradient(model, params, inputs, labels).items():
            params[name].grad = slope
        optimiser.step()
    assert float(loss(model, params, inputs, labels)) < 0.5 * before
