"""The contract of every registered learning rule."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from fedcore.errors import ConfigError
from fedcore.nn.arrays import to_tensors
from fedcore.nn.functional import loss
from fedcore.nn.learning_rules import LEARNING_RULES
from fedcore.nn.learning_rules.base import Batch
from fedcore.nn.models import build, initial_weights
from fedcore.plan import ModelSpec, NeuronSpec, Training

pytestmark = [pytest.mark.torch, pytest.mark.parametrize("name", LEARNING_RULES.names())]

SPEC = ModelSpec(
    name="mlp",
    spiking=True,
    input_shape=(6,),
    n_classes=3,
    neuron=NeuronSpec(sharpness=5.0),
    init_gain=2.0,
    options={"hidden": [8]},
)
MODEL = build(SPEC)


def weights():
    return to_tensors(initial_weights(SPEC, 3))


def batch(seed):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.rand(4, 5, 6, generator=draw)
    return Batch(inputs=inputs, labels=torch.randint(0, 3, (5,), generator=draw))


def update(name, batches, *, params=None, carry=None, **options):
    training = Training(rule=name, batch_size=5, local_steps=len(batches), **options)
    rule = LEARNING_RULES.get(name)()
    return rule.update(MODEL, params or weights(), batches, training, carry or {})


def test_the_update_has_the_names_and_shapes_of_the_weights(name):
    for kind, batches in (("gradient", [batch(1)]), ("delta", [batch(1), batch(2)])):
        tensors, carry = update(name, batches, update=kind)
        assert [(n, t.shape) for n, t in tensors.items()] == [
            (n, t.shape) for n, t in weights().items()
        ]
        assert not any(t.requires_grad for t in [*tensors.values(), *carry.values()])


def test_weights_are_left_alone_and_the_update_repeats(name):
    params = weights()
    first, _ = update(name, [batch(1), batch(2)], params=params, update="delta")
    second, _ = update(name, [batch(1), batch(2)], params=params, update="delta")
    assert all(torch.equal(params[n], w) for n, w in weights().items())
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_following_the_update_lowers_the_loss(name):
    params = weights()
    delta, _ = update(name, [batch(1)] * 5, params=params, update="delta", learning_rate=0.1)
    moved = {n: w + delta[n] for n, w in params.items()}
    assert loss(MODEL, moved, *batch(1)) < loss(MODEL, params, *batch(1))


def test_one_batch_per_local_step(name):
    rule = LEARNING_RULES.get(name)()
    training = Training(rule=name, update="delta", local_steps=3)
    with pytest.raises(ConfigError, match=r"got 1 batches for training\.local_steps = 3"):
        rule.update(MODEL, weights(), [batch(1)], training, {})
