"""FedSGD, FedAvg and FedProx, against their equations written out."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from fedcore.nn.functional import gradient
from fedcore.nn.learning_rules.backprop import Backprop
from fedcore.nn.learning_rules.base import Batch
from fedcore.nn.models import build, initial_weights
from fedcore.plan import ModelSpec, Training

pytestmark = pytest.mark.torch

SPEC = ModelSpec(name="mlp", input_shape=(4,), n_classes=2, options={"hidden": []})
MODEL = build(SPEC)


def weights():
    return {n: torch.from_numpy(w).double() for n, w in initial_weights(SPEC, 1).items()}


def batch(seed):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.rand(1, 3, 4, dtype=torch.float64, generator=draw)
    return Batch(inputs=inputs, labels=torch.randint(0, 2, (3,), generator=draw))


def linear_gradient(params, batch):
    """Softmax regression: W gets (p - y)^T x / batch, b gets the mean of (p - y)."""
    x, w, b = batch.inputs[0], params["readout.weight"], params["readout.bias"]
    residual = torch.softmax(x @ w.T + b, 1) - torch.eye(2, dtype=x.dtype)[batch.labels]
    return {"readout.weight": residual.T @ x / len(x), "readout.bias": residual.mean(0)}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name])


def test_gradient_of_one_batch():
    sent, _ = Backprop().update(MODEL, weights(), [batch(1)], Training(), {})
    assert_same(sent, linear_gradient(weights(), batch(1)))


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_delta_is_local_sgd_with_a_pull_to_the_global_weights(mu):
    training = Training(update="delta", local_steps=3, learning_rate=0.3, proximal_mu=mu)
    batches = [batch(1), batch(2), batch(3)]
    sent, _ = Backprop().update(MODEL, weights(), batches, training, {})
    local, start = weights(), weights()
    for step in batches:
        slope = linear_gradient(local, step)
        local = {n: w - 0.3 * (slope[n] + mu * (w - start[n])) for n, w in local.items()}
    assert_same(sent, {n: w - start[n] for n, w in local.items()})


def test_one_step_of_delta_is_the_gradient_times_the_learning_rate():
    training = Training(update="delta", local_steps=1, learning_rate=0.3)
    sent, _ = Backprop().update(MODEL, weights(), [batch(1)], training, {})
    slope = gradient(MODEL, weights(), *batch(1))
    assert_same(sent, {n: -0.3 * g for n, g in slope.items()})


def test_carry_passes_through():
    carry = {"momentum": torch.ones(2)}
    _, kept = Backprop().update(MODEL, weights(), [batch(1)], Training(), carry)
    assert_same(kept, carry)
