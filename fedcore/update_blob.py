"""An update as one blob: its tensors in the plan's codec, and a note that says what they are.

Everything that decides how an update counts stands inside the blob, and so under its SHA-256:

    {"codec", "codec_options", "kind", "n_examples", "plan", "client"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedcore.codecs.base import codec_of
from fedcore.errors import Refusal, UpdateError
from fedcore.plan import Choice
from fedcore.strict import to_table
from fedcore.tensors import Schema
from fedcore.types import TensorMap, Update

__all__ = ["pack_update", "unpack_update"]

_KINDS = ("gradient", "delta")


def pack_update(update: Update, *, codec: Choice, client_id: str = "") -> bytes:
    """The bytes that cross the wire; equal arguments give equal bytes.

    Args:
        update: what the client computed.
        codec: as the plan names it.
        client_id: the sender; keeps the equal updates of two clients (all zeros, say) apart, which
            admission would otherwise refuse as a replay.

    Raises:
        UpdateError: NOT_FINITE, a value cannot be carried by this codec.
    """
    note = {
        "codec": codec.name,
        "codec_options": to_table(codec.options),
        "kind": update.kind,
        "n_examples": update.n_examples,
        "plan": update.plan_digest,
        "client": client_id,
    }
    return codec_of(codec).encode(update.tensors, note=note)


def unpack_update(
    blob: bytes | memoryview, *, schema: Schema, plan_digest: str, codec: Choice
) -> Update:
    """Read a blob that a stranger may have made; what comes back fits the plan.

    Args:
        blob: as received.
        schema: of the global weights.
        plan_digest: of the plan that the blob must answer.
        codec: of that plan.

    Raises:
        UpdateError: the bytes, names, dtypes, shapes, codec, plan, kind or weight do not fit, or a
            value is NaN or infinite.
    """
    tensors, note = codec_of(codec).decode(blob, schema=schema)
    if note.get("codec_options") != to_table(codec.options):
        raise UpdateError(
            Refusal.WRONG_CODEC, f"options {note.get('codec_options')!r:.100} are not the plan's"
        )
    if note.get("plan") != plan_digest:
        raise UpdateError(
            Refusal.WRONG_PLAN, f"answers plan {note.get('plan')!r:.80}, expected {plan_digest}"
        )
    if note.get("kind") not in _KINDS:
        raise UpdateError(
            Refusal.BAD_HEADER, f"kind {note.get('kind')!r:.80}, expected one of {_KINDS}"
        )
    n_examples = _weight(note)
    _check_finite(tensors)
    return Update(
        kind=note["kind"], tensors=tensors, n_examples=n_examples, plan_digest=plan_digest
    )


def _weight(note: Mapping[str, Any]) -> int:
    n_examples = note.get("n_examples")
    if not isinstance(n_examples, int) or isinstance(n_examples, bool) or n_examples < 1:
        raise UpdateError(
            Refusal.BAD_WEIGHT, f"n_examples is {n_examples!r:.80}, expected a whole number >= 1"
        )
    return n_examples


def _check_finite(tensors: TensorMap) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            n_bad = np.count_nonzero(~np.isfinite(tensor))
            raise UpdateError(Refusal.NOT_FINITE, f"{name}: {n_bad} values are NaN or infinite")
