"""What a client with SLAYER's neurons gives away; the attacker has their twin and no lava-dl."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.attacks import ATTACKS  # noqa: E402
from fedcore.data.encodings import encode  # noqa: E402
from fedcore.nn.arrays import to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, NeuronSpec  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import Knowledge  # noqa: E402

pytestmark = pytest.mark.torch

NEURON = NeuronSpec(
    name="slayer-cuba",
    decay=0.97,
    threshold=1.25,
    reset="zero",
    surrogate="exponential",
    sharpness=0.27,
    options={"current_decay": 0.25, "scale_grad": 3.0},
)
MLP = ModelSpec(
    name="mlp",
    spiking=True,
    neuron=NEURON,
    readout="spike_count",
    init_gain=3.0,
    options={"hidden": [32]},
)
DELAYED = replace(MLP, neuron=replace(NEURON, options={**NEURON.options, "delay": True}))
DIRECT = EncodingSpec(n_steps=8)


def test_a_constant_input_is_read_up_to_its_brightness(laboratory) -> None:
    """No bias, no scale."""
    seen = laboratory.victim([3], model=MLP, encoding=DIRECT)
    (answer,) = laboratory.attack("first-layer", [seen], iterations=1)
    truth = laboratory.images[3]
    assert answer.certificate["scale_known"] == 0
    np.testing.assert_allclose(answer.candidates[0, 0], truth / truth.max(), atol=1e-4)


def test_frames_that_come_too_late_do_not_darken_the_image(laboratory) -> None:
    spec = EncodingSpec(name="rate", n_steps=8)
    seen = laboratory.victim([3], model=MLP, encoding=spec)
    (answer,) = laboratory.attack("first-layer", [seen], iterations=1)
    frames = encode(spec, laboratory.images[[3]], stream(0, "secret"))[:6]  # of two layers
    assert answer.certificate["rank"] == 6
    np.testing.assert_allclose(answer.candidates[0], frames.mean(0), atol=1e-6)


@pytest.mark.parametrize("model", [MLP, DELAYED])
def test_matching_comes_closer_to_the_gradient_and_to_the_image(laboratory, model) -> None:
    seen = laboratory.victim([3], model=model, encoding=DIRECT)
    known = [Knowledge(labels=laboratory.labels[[3]])]
    (answer,) = laboratory.attack(
        "inverting-gradients", [seen], known=known, restarts=2, iterations=150, labels="granted"
    )
    curve = answer.loss_curves[answer.chosen]
    assert curve[np.isfinite(curve)][-1] < 0.1 * curve[0]
    assert laboratory.psnr_db(answer) > 8


def test_relaxed_matching_puts_its_own_sharpness_in_the_neuron(laboratory) -> None:
    seen = laboratory.victim([3], model=MLP, encoding=DIRECT)
    (answer,) = laboratory.attack("relaxed-matching", [seen], iterations=5)
    assert not answer.failed
    assert np.isfinite(answer.losses).all()


def test_peeling_says_why_it_cannot(laboratory) -> None:
    seen = laboratory.victim([3], model=MLP, encoding=DIRECT)
    (answer,) = laboratory.attack("peeling", [seen], iterations=5)
    assert "readout 'spike_count' are no weighted sum" in answer.failed


@pytest.mark.parametrize("spec", [MLP, DELAYED])
def test_the_gradient_can_be_differentiated_as_a_client_computes_it(laboratory, spec) -> None:
    model, params = build(spec), to_tensors(initial_weights(spec, 1))
    inputs = to_tensor(np.repeat(laboratory.images[None, :4], 8, axis=0))
    labels = to_tensor(laboratory.labels[:4])
    sent = gradient(model, params, inputs, labels)

    def distance(x: torch.Tensor) -> torch.Tensor:
        found = gradient(model, params, x, labels, create_graph=True)
        return sum((found[n] - sent[n]).square().sum() for n in sent)

    assert distance(inputs).item() < 1e-10 * sum(t.square().sum().item() for t in sent.values())
    slope = torch.func.grad(distance)(0.5 * inputs)
    assert bool(torch.isfinite(slope).all())
    assert float(slope.abs().max()) > 0


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_answers_or_says_why_where_delays_are_learned(laboratory, name) -> None:
    seen = laboratory.victim([3], model=DELAYED, encoding=EncodingSpec(name="rate", n_steps=8))
    known = [Knowledge(labels=laboratory.labels[[3]])]
    granted = {"labels": "granted"} if hasattr(ATTACKS.get(name), "labels") else {}
    (answer,) = laboratory.attack(name, [seen], known=known, iterations=2, **granted)
    assert answer.failed or np.isfinite(answer.candidates).all()
