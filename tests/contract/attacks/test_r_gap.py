"""R-GAP reads inputs exactly where its equations suffice, and says where they do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedcore.defences.base import chain  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec, Training  # noqa: E402
from fedcore.types import Observation  # noqa: E402

pytestmark = pytest.mark.torch

NETWORKS = {
    "convnet": ModelSpec(name="convnet", options={"channels": [8, 16]}),
    "lenet": ModelSpec(name="lenet"),
    "mlp": ModelSpec(name="mlp", options={"hidden": [64, 32]}),
}


def withheld(seen: Observation, *names: str) -> Observation:
    defence = chain([Choice(name="withhold", options={"names": names})])
    return replace(seen, tensors=defence.update(seen.tensors, np.random.default_rng(0)))


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_are_read_exactly(name: str, activation: Any, laboratory) -> None:
    model = replace(NETWORKS[name], activation=activation, init_gain=2.0)
    (answer,) = laboratory.attack("r-gap", [laboratory.victim([7], model=model)], iterations=1)
    assert laboratory.psnr_db(answer) > 80
    assert laboratory.labels_are_right(answer)
    assert answer.losses[0] < 1e-8
    assert answer.certificate
    assert not any(answer.certificate.values())


@pytest.mark.parametrize("shape", [(2, 9, 7), (3, 8, 8)])
def test_channels_and_odd_sizes_are_no_matter(shape: tuple[int, ...], laboratory) -> None:
    model = replace(NETWORKS["convnet"], input_shape=shape)
    inputs = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    seen = laboratory.victim([5], model=model, inputs=inputs)
    (answer,) = laboratory.attack("r-gap", [seen], iterations=1)
    assert laboratory.psnr_db(answer) > 80


def test_a_first_layer_without_bias_stops_the_closed_form_alone(laboratory) -> None:
    seen = withheld(laboratory.victim([7], model=NETWORKS["mlp"]), "hidden*.bias")
    (refused,) = laboratory.attack("first-layer", [seen], iterations=1)
    assert "bias is zero" in refused.failed
    (answer,) = laboratory.attack("r-gap", [seen], iterations=1)
    assert laboratory.psnr_db(answer) > 80


@pytest.mark.parametrize("base", ["convnet", "mlp"])
def test_precode_hides_nothing_of_a_single_example(base: str, laboratory) -> None:
    model = chain([Choice(name="precode", options={"size": 16})]).model(NETWORKS[base])
    seen = laboratory.victim([7], model=model)
    (answer,) = laboratory.attack("r-gap", [seen], iterations=1)
    assert laboratory.psnr_db(answer) > 80
    (refused,) = laboratory.attack("r-gap", [withheld(seen, "encoder.bias")], iterations=1)
    assert "layer 'encoder'" in refused.failed


def test_too_few_equations_are_counted(laboratory) -> None:
    """64 pixels; one channel with stride 2 gives 16 outputs and 25 values of its gradient.

    The sum of weights times gradient is that of outputs times slopes, so one equation is no news.
    """
    narrow = ModelSpec(name="convnet", activation="tanh", options={"channels": [1]})
    (answer,) = laboratory.attack("r-gap", [laboratory.victim([7], model=narrow)], iterations=1)
    assert answer.certificate == {"missing readout": 0, "missing conv1": 64 - (16 + 25 - 1)}
    assert laboratory.psnr_db(answer) < 60


def test_too_few_equations_of_several_channels_still_give_the_shortest_input(laboratory) -> None:
    narrow = ModelSpec(
        name="convnet", activation="tanh", input_shape=(2, 8, 8), options={"channels": [1]}
    )
    inputs = np.random.default_rng(0).random((1, 2, 8, 8), dtype=np.float32)
    seen = laboratory.victim([7], model=narrow, inputs=inputs)
    (answer,) = laboratory.attack("r-gap", [seen], iterations=1)
    assert not answer.failed
    assert answer.certificate == {"missing readout": 0, "missing conv1": 128 - (16 + 2 * 25 - 1)}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"spiking": True, "init_gain": 3.0}, "spiking"),
        ({"name": "vgg-small", "options": {"channels": [4]}}, "'block1b_pool'"),
    ],
)
def test_networks_without_an_inverse_are_refused(
    changes: dict[str, Any], why: str, laboratory
) -> None:
    model = replace(NETWORKS["convnet"], **changes)
    (answer,) = laboratory.attack("r-gap", [laboratory.victim([7], model=model)], iterations=1)
    assert why in answer.failed


def test_what_it_cannot_read_is_refused_for_what_it_is(laboratory) -> None:
    model = NETWORKS["mlp"]
    one = laboratory.victim([7], model=model)
    encoding = EncodingSpec(name="rate", n_steps=4)
    silent = {n: np.zeros_like(t) for n, t in one.tensors.items()}
    training = Training(update="delta", batch_size=1, learning_rate=0.5)
    whole_step = {n: -np.float32(0.5) * t for n, t in one.tensors.items()}
    answers = laboratory.attack(
        "r-gap",
        [
            laboratory.victim([7, 8], model=model, client=1),
            laboratory.victim([7], model=model, encoding=encoding, client=2),
            replace(one, tensors=silent),
            withheld(one, "readout.bias"),
            replace(
                one, tensors=whole_step, kind="delta", plan=replace(one.plan, training=training)
            ),
        ],
        iterations=1,
        restarts=2,
    )
    reasons = [answer.failed for answer in answers]
    for reason, why in zip(
        reasons,
        ["mean of 2 examples", "'rate'", "every gradient", "layer 'readout'", ""],
        strict=True,
    ):
        assert why in reason
    assert not reasons[-1]
    assert laboratory.psnr_db(answers[-1]) > 60
