"""Every attack takes images, event frames and series, of both twins, or says truly why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.attacks import ATTACKS  # noqa: E402
from fedcore.errors import AttackError  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec  # noqa: E402

pytestmark = pytest.mark.torch

N_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Raw inputs, and what they meet."""

    raw: tuple[int, ...]
    model: ModelSpec
    encoding: EncodingSpec


def conv(*shape: int) -> ModelSpec:
    return ModelSpec(name="convnet", input_shape=shape, options={"channels": [4]}, init_gain=3.0)


def mlp(*shape: int) -> ModelSpec:
    return ModelSpec(name="mlp", input_shape=shape, options={"hidden": [24]}, init_gain=3.0)


CONSTANT = EncodingSpec(n_steps=N_STEPS)
EVENTS = EncodingSpec(name="events", n_steps=N_STEPS)
CHANGES = EncodingSpec(name="delta", n_steps=6, options={"time_axis": 2})

KINDS = {
    "two-channels": Kind(raw=(2, 6, 6), model=conv(2, 6, 6), encoding=CONSTANT),
    "colour": Kind(raw=(3, 6, 6), model=conv(3, 6, 6), encoding=CONSTANT),
    "colour-dense": Kind(raw=(3, 4, 4), model=mlp(3, 4, 4), encoding=CONSTANT),
    "events": Kind(raw=(N_STEPS, 2, 6, 6), model=conv(2, 6, 6), encoding=EVENTS),
    "events-dense": Kind(raw=(N_STEPS, 2, 4, 4), model=mlp(2, 4, 4), encoding=EVENTS),
    "series": Kind(raw=(3, 6), model=mlp(3, 6), encoding=CONSTANT),
    "series-changes": Kind(raw=(3, 6), model=mlp(3), encoding=CHANGES),
}

CLAIMS: dict[str, Callable[[ModelSpec, EncodingSpec], bool]] = {
    "does not spike": lambda model, _: not model.spiking,
    "is not fully connected": lambda model, _: model.name != "mlp",
    "values other than 0 and 1": lambda _, encoding: encoding.name != "events",
    "more than 0 and 1": lambda _, encoding: encoding is CHANGES,
    "another input at every step": lambda _, encoding: encoding is not CONSTANT,
    "a spiking layer": lambda model, _: model.spiking,
}
"""What a refusal may say here, and when it is true."""


@pytest.mark.parametrize("is_spiking", [False, True], ids=["ann", "snn"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_kind_of_input(name: str, kind: str, is_spiking: bool, laboratory) -> None:
    victim = KINDS[kind]
    model = replace(victim.model, spiking=is_spiking)
    raw = np.random.default_rng(0).random((1, *victim.raw), dtype=np.float32)
    if victim.encoding is EVENTS:
        raw = (raw > 0.7).astype(np.float32)
    seen = laboratory.victim([5], model=model, encoding=victim.encoding, inputs=raw)
    try:
        (answer,) = laboratory.attack(name, [seen], iterations=2)
    except AttackError as reason:
        why = str(reason)
    else:
        why = answer.failed
    if why:
        assert all(holds(model, victim.encoding) for text, holds in CLAIMS.items() if text in why)
        return
    assert answer.candidates.shape == (1, 1, *victim.raw)
    assert 0 <= answer.candidates.min() <= answer.candidates.max() <= 1
    assert np.isfinite(answer.losses).all()
