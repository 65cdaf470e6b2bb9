"""What the client sends is what the attacker differentiates, and both are the true gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F

from fedcore.nn.functional import gradient, logits, loss, predict
from fedcore.nn.models import build, initial_weights
from fedcore.nn.surrogates import smooth
from fedcore.plan import ModelSpec, NeuronSpec

torch.set_num_threads(1)  # small tensors: more threads only wait for each other

pytestmark = pytest.mark.torch

READOUTS = ["membrane_mean", "per_step", "spike_count"]
TINY = ModelSpec(
    name="convnet",
    input_shape=(1, 5, 5),
    n_classes=3,
    init_gain=3.0,
    options={"channels": [2]},
    neuron=NeuronSpec(surrogate="sigmoid", sharpness=2.0),
)


def draw_case(spec, *, seed=1, n_examples=2, n_steps=3):
    params = {n: torch.from_numpy(w).double() for n, w in initial_weights(spec, seed).items()}
    draw = torch.Generator().manual_seed(seed)
    shape = (n_steps, n_examples, *spec.input_shape)
    inputs = torch.rand(shape, dtype=torch.float64, generator=draw)
    labels = torch.randint(0, spec.n_classes, (n_examples,), generator=draw)
    return build(spec), params, inputs, labels


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors.values()])


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("spiking", [False, True])
def test_gradient_is_finite_differences_on_the_smooth_form(monkeypatch, readout, spiking):
    """First order in the weights, second order in inputs and weights."""
    monkeypatch.setattr("fedcore.nn.neurons.lif.spike", smooth)
    neuron = replace(TINY.neuron, detach_reset=False)
    spec = replace(TINY, readout=readout, spiking=spiking, neuron=neuron, activation="sigmoid")
    model, params, inputs, labels = draw_case(spec)
    names = list(params)

    def loss_at(*weights):
        return loss(model, dict(zip(names, weights, strict=True)), inputs, labels)

    def gradient_at(x, *weights):
        at = dict(zip(names, weights, strict=True))
        return flat(gradient(model, at, x, labels, create_graph=True))

    weights = [w.requires_grad_() for w in params.values()]
    assert torch.autograd.gradcheck(loss_at, weights)
    everything = [inputs.requires_grad_(), *weights]
    assert torch.autograd.gradcheck(gradient_at, everything, fast_mode=True)
    true = torch.autograd.grad(loss_at(*weights), weights)
    sent = gradient(model, params, inputs, labels)
    torch.testing.assert_close(flat(sent), flat(dict(zip(names, true, strict=True))))


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("detach_reset", [True, False])
def test_client_gradient_is_the_attackers_batched_over_victims(readout, spiking, detach_reset):
    neuron = replace(TINY.neuron, detach_reset=detach_reset)
    spec = replace(TINY, readout=readout, spiking=spiking, neuron=neuron)
    victims = [draw_case(spec, seed=seed) for seed in (1, 2, 3)]
    model = victims[0][0]
    sent = [gradient(model, params, x, y) for _, params, x, y in victims]

    params = {n: torch.stack([v[1][n] for v in victims]) for n in sent[0]}
    inputs = torch.stack([v[2] for v in victims]).requires_grad_()
    labels = torch.stack([v[3] for v in victims])

    def one(params, inputs, labels):
        return gradient(model, params, inputs, labels, create_graph=True)

    matched = torch.func.vmap(one)(params, inputs, labels)
    for name, found in matched.items():
        torch.testing.assert_close(found, torch.stack([g[name] for g in sent]))

    # Differentiable once more, and victims do not meet.
    (slope,) = torch.autograd.grad(flat(matched).square().sum(), inputs)
    for i, (_, params_i, x, y) in enumerate(victims):
        own = x.clone().requires_grad_()
        alone = flat(gradient(model, params_i, own, y, create_graph=True)).square().sum()
        torch.testing.assert_close(slope[i], torch.autograd.grad(alone, own)[0])
    assert float(slope.abs().max()) > 0


def test_attack_gradient_also_works_inside_grad():
    """vmap(grad(of a distance between gradients)), as torch.func attacks are written."""
    spec = replace(TINY, spiking=True)
    model, params, inputs, labels = draw_case(spec)
    target = gradient(model, params, inputs, labels)

    def distance(x):
        found = gradient(model, params, x, labels, create_graph=True)
        return sum((found[n] - target[n]).square().sum() for n in target)

    starts = torch.stack([inputs, inputs * 0.5 + 0.2])
    slopes, distances = torch.func.vmap(torch.func.grad_and_value(distance))(starts)
    assert float(distances[0]) == pytest.approx(0, abs=1e-20)
    assert float(distances[1]) > 0
    assert float(slopes[0].abs().max()) == pytest.approx(0, abs=1e-9)
    assert float(slopes[1].abs().max()) > 0


@pytest.mark.parametrize("readout", READOUTS)
def test_probabilities_are_labels_too(readout):
    model, params, inputs, labels = draw_case(replace(TINY, spiking=True, readout=readout))
    one_hot = F.one_hot(labels, 3).double()
    hard = gradient(model, params, inputs, labels)
    soft = gradient(model, params, inputs, one_hot)
    torch.testing.assert_close(flat(soft), flat(hard))
    guess = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).double().requires_grad_()
    found = flat(gradient(model, params, inputs, guess, create_graph=True))
    (slope,) = torch.autograd.grad(found.square().sum(), guess)
    assert float(slope.abs().max()) > 0


def test_the_client_builds_no_graph():
    model, params, inputs, labels = draw_case(TINY)
    sent = gradient(model, params, inputs.requires_grad_(), labels)
    assert not any(g.requires_grad for g in sent.values())
    assert list(sent) == list(params)


def test_per_step_loss_is_the_mean_of_each_steps_own():
    spec = replace(TINY, spiking=True, readout="per_step")
    model, params, inputs, labels = draw_case(spec, n_steps=4, n_examples=5)
    assert len(labels.unique()) > 1
    said = logits(model, params, inputs)
    expected = sum(float(F.cross_entropy(step, labels)) for step in said) / 4
    assert float(loss(model, params, inputs, labels)) == pytest.approx(expected)
    assert torch.equal(predict(model, params, inputs), said.mean(0).argmax(1))


def test_membrane_mean_is_the_mean_of_a_leaky_readout():
    """By the recursion, on the currents that "per_step" shows."""
    spec = replace(TINY, spiking=True)
    model, params, inputs, _ = draw_case(spec, n_steps=5)
    currents = logits(build(replace(spec, readout="per_step")), params, inputs)
    v, total = 0.0, 0.0
    for current in currents:
        v = spec.neuron.decay * v + current
        total = total + v
    torch.testing.assert_close(logits(model, params, inputs), total / 5)
