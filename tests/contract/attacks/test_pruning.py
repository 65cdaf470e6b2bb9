"""Soteria shows in the layer in front, and an attack that leaves the pruned columns out gets in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.adaptive import adaptation_to  # noqa: E402
from fedcore.codecs.base import codec_of  # noqa: E402
from fedcore.defences.soteria import Soteria  # noqa: E402
from fedcore.nn.arrays import to_tensor, to_tensors  # noqa: E402
from fedcore.nn.models import build  # noqa: E402
from fedcore.nn.sensitivity import BatchView  # noqa: E402
from fedcore.plan import Choice, ModelSpec  # noqa: E402
from fedcore.tensors import schema_of  # noqa: E402
from fedcore.types import Observation  # noqa: E402

pytestmark = pytest.mark.torch

MODELS = {
    "relu": ModelSpec(name="convnet", options={"channels": [8, 16]}),
    "pooled": ModelSpec(name="vgg-small", init_gain=2.0, options={"channels": [4, 8]}),
    "mlp": ModelSpec(name="mlp"),
    "sigmoid": ModelSpec(activation="sigmoid", init_gain=5.0),
    "tanh": ModelSpec(name="mlp", activation="tanh"),
}
VICTIMS = range(100, 103)


def pruned(seen: Observation, inputs: np.ndarray, *, fraction: float) -> Observation:
    model = seen.plan.model
    view = BatchView(build(model), to_tensors(seen.weights), to_tensor(inputs[None]))
    return replace(seen, tensors=Soteria(fraction=fraction).informed_update(seen.tensors, view))


@pytest.mark.parametrize("kind", MODELS)
def test_pruning_shows_and_silence_does_not(kind: str, laboratory) -> None:
    for number in VICTIMS[:2]:
        seen = laboratory.victim([number], model=MODELS[kind])
        told: dict[str, Any] = {"model": MODELS[kind], "n_inputs": 1, "weights": seen.weights}
        for codec in ("f32", "f16", "int8", "int4"):
            carrier = codec_of(Choice(name=codec))
            sent = carrier.encode(seen.tensors, note={})
            arrived, _ = carrier.decode(sent, schema=schema_of(seen.tensors))
            assert not adaptation_to(arrived, **told).pruned
        silent = {
            n: np.zeros_like(t) if n.endswith(".bias") else t for n, t in seen.tensors.items()
        }
        assert not adaptation_to(silent, **told).pruned
        for fraction in (0.1, 0.8):
            defended = pruned(seen, laboratory.images[[number]], fraction=fraction)
            assert adaptation_to(defended.tensors, **told).pruned


def test_of_batches_and_spiking_networks_the_plan_has_to_tell(laboratory) -> None:
    spiking = ModelSpec(name="convnet", spiking=True, init_gain=3.0)
    seen = laboratory.victim([100], model=spiking)
    defended = pruned(seen, laboratory.images[[100]], fraction=0.8)
    told: dict[str, Any] = {"model": spiking, "n_inputs": 1, "weights": seen.weights}
    assert not adaptation_to(defended.tensors, **told).pruned
    soteria = [Choice(name="soteria")]
    assert adaptation_to(defended.tensors, **told, defences=soteria).pruned == ("readout.weight",)


def test_leaving_out_the_pruned_columns_beats_taking_them_for_silent(laboratory) -> None:
    seen = [
        pruned(
            laboratory.victim([i], model=MODELS["relu"], client=i),
            laboratory.images[[i]],
            fraction=0.8,
        )
        for i in VICTIMS
    ]
    reached = {}
    for adaptive in (True, False):
        answers = laboratory.attack("inverting-gradients", seen, iterations=80, adaptive=adaptive)
        reached[adaptive] = np.mean([laboratory.psnr_db(answer) for answer in answers])
        assert all(("pruned tensors" in a.certificate) == adaptive for a in answers)
    assert reached[True] >= reached[False] + 10
