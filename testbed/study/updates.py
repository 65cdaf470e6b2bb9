"""What a client with given examples sends, taken all the way to bytes and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from attacker.observations import Artefacts, observe
from edge_client.vault import Truth
from fedcore.data.datasets import Examples
from fedcore.data.encodings import encode
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors
from fedcore.nn.functional import gradient
from fedcore.nn.models import build
from fedcore.plan import EncodingSpec, ModelSpec, RoundPlan, Training
from fedcore.types import Observation, Ticket, Update
from fedcore.update_blob import pack_update
from fedcore.wire.messages import UploadHeader, plan_to_bytes

__all__ = ["send"]

_RUN = "study"


def send(
    batch: Examples,
    *,
    model: ModelSpec,
    encoding: EncodingSpec,
    weights: bytes,
    client: int,
    rng: np.random.Generator,
) -> tuple[Observation, Truth]:
    """One FedSGD update, as the tap shows it, and what was really in it.

    Encoding, gradient, codec and reading the bytes are the functions that clients and attackers
    call.

    Args:
        batch: the client's examples.
        model: of the plan.
        encoding: of the plan.
        weights: the artefact with the global weights.
        client: its number.
        rng: the client's secret stream, which draws the encoding.
    """
    plan = RoundPlan(
        run_id=_RUN,
        round=0,
        experiment_digest="",
        model=model,
        weights=hashlib.sha256(weights).hexdigest(),
        encoding=encoding,
        training=Training(batch_size=len(batch)),
    )
    plan_bytes = plan_to_bytes(plan)
    artefacts = Artefacts(_always(weights))
    spikes = encode(encoding, batch.inputs, rng)
    slopes = gradient(
        build(model),
        to_tensors(artefacts.weights(plan.weights)),
        to_tensor(spikes),
        to_tensor(batch.labels),
    )
    plan_digest = hashlib.sha256(plan_bytes).hexdigest()
    update = Update(
        kind=plan.training.update,
        tensors=to_arrays(slopes),
        n_examples=len(batch),
        plan_digest=plan_digest,
    )
    ticket = Ticket(run_id=_RUN, round=0, client_id=f"client-{client}")
    body = pack_update(update, codec=plan.codec, client_id=ticket.client_id)
    header = UploadHeader(
        ticket=ticket,
        attempt=0,
        plan_digest=plan_digest,
        n_bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )
    seen = observe(header, plan=plan_bytes, blob=body, artefacts=artefacts)
    return seen, Truth.copy_of(inputs=[batch.inputs], labels=[batch.labels], encoded=[spikes])


def _always(blob: bytes) -> Callable[[str], bytes]:
    return lambda _: blob
