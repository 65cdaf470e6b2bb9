"""A variational bottleneck: its law by hand; everybody knows of it, nobody of its draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aggregator.rounds import plan_for  # noqa: E402
from fedcore.config import Arm, Experiment  # noqa: E402
from fedcore.defences.base import chain  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.nn.arrays import to_tensors  # noqa: E402
from fedcore.nn.functional import run  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import Choice, ModelSpec  # noqa: E402

pytestmark = pytest.mark.torch

PRECODE = Choice(name="precode", options={"size": 5, "beta": 0.5})
BASE = ModelSpec(name="mlp", options={"hidden": [7]}, init_gain=3.0)


def test_a_plan_names_the_network_that_is_trained() -> None:
    arm = Arm(name="main", model=BASE, defences=(PRECODE,))
    plan = plan_for(Experiment(name="demo", arms=(arm,)), arm, round=0, weights="0" * 64, graphs={})
    assert plan.model == chain([PRECODE]).model(BASE)
    assert plan.model.options["options"] == BASE.options
    names = [name for name, _ in build(plan.model).named_parameters()]
    assert [name.partition(".")[0] for name in names[::2]] == [
        "hidden1",
        "encoder",
        "decoder",
        "readout",
    ]


@pytest.mark.parametrize("spiking", [False, True])
def test_code_and_penalty_follow_the_paper(spiking: bool) -> None:
    spec = chain([PRECODE]).model(replace(BASE, spiking=spiking))
    weights = initial_weights(spec, 0)
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.random((3, 2, 1, 8, 8), dtype=np.float32))
    noise = rng.normal(size=(3, 2, 5)).astype(np.float32)
    found = run(build(spec), to_tensors(weights), inputs, torch.from_numpy(noise))
    features = found.received["encoder"].numpy()
    assert features.any()
    statistics = features @ weights["encoder.weight"].T + weights["encoder.bias"]
    mean, deviation = statistics[..., :5], np.log1p(np.exp(statistics[..., 5:]))
    np.testing.assert_allclose(
        found.received["decoder"], mean + deviation * noise, rtol=1e-4, atol=1e-5
    )
    nats = (mean**2 + deviation**2 - 1) / 2 - np.log(deviation)  # of N(mean, deviation^2)
    assert float(found.penalty) == pytest.approx(0.5 * nats.sum(-1).mean(), rel=1e-4)
    code = found.received["decoder"].numpy()
    np.testing.assert_allclose(
        found.received["readout"],
        code @ weights["decoder.weight"].T + weights["decoder.bias"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_other_networks_draw_nothing_and_pay_nothing() -> None:
    inputs = torch.rand(1, 2, 1, 8, 8)
    network, params = build(BASE), to_tensors(initial_weights(BASE, 0))
    assert network.n_draws == 0
    assert run(network, params, inputs).penalty == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be >= 1; got 0"),
        ({"beta": -1.0}, "beta must be >= 0"),
        ({"base": "bottleneck"}, "without a bottleneck"),
        ({"base": "lennet"}, "did you mean 'lenet'"),
    ],
)
def test_a_bottleneck_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ModelSpec(name="bottleneck", options=options))
