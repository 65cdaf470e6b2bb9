"""What a client would send for given examples, as an attacker sees it."""

from __future__ import annotations

import numpy as np

from fedcore.codecs.base import codec_of
from fedcore.defences.noise import NoiseSource
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors
from fedcore.nn.functional import draws, gradient
from fedcore.nn.models import build
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training
from fedcore.tensors import schema_of
from fedcore.types import Observation, TensorMap, Ticket

__all__ = ["gradient_of_batch", "observation"]

_RUN = "benchmark"
_F32 = Choice(name="f32")


def gradient_of_batch(
    model: ModelSpec,
    weights: TensorMap,
    train: np.ndarray,
    labels: np.ndarray,
    *,
    noise: NoiseSource | None = None,
) -> dict[str, np.ndarray]:
    """The gradient that a client computes.

    Args:
        model: of the network.
        weights: global ones.
        train: encoded, [time, batch, feature...].
        labels: int64 [batch].
        noise: what random layers draw from; None takes their means.
    """
    network, inputs = build(model), to_tensor(train)
    drawn = None if noise is None else draws(network, inputs, noise)
    return to_arrays(gradient(network, to_tensors(weights), inputs, to_tensor(labels), drawn))


def observation(
    model: ModelSpec,
    encoding: EncodingSpec,
    weights: TensorMap,
    sent: TensorMap,
    *,
    training: Training,
    n_examples: int = 1,
    round: int = 0,
    client: int = 0,
    codec: Choice = _F32,
) -> Observation:
    """One update after the codec, with the plan that it answers.

    Args:
        model: of the plan.
        encoding: of the plan.
        weights: global ones.
        sent: gradient, or delta where `training` says so.
        training: of the plan.
        n_examples: that the update declares.
        round: of its ticket.
        client: number in its ticket.
        codec: of the plan.
    """
    plan = RoundPlan(
        run_id=_RUN,
        round=round,
        experiment_digest="",
        model=model,
        weights="",
        encoding=encoding,
        training=training,
        codec=codec,
    )
    wire = codec_of(codec)
    received, _ = wire.decode(wire.encode(sent, note={}), schema=schema_of(sent))
    return Observation(
        ticket=Ticket(run_id=_RUN, round=round, client_id=f"client-{client}"),
        plan=plan,
        weights=weights,
        tensors=received,
        kind=training.update,
        n_examples=n_examples,
        sha256="",
        n_bytes=0,
    )
