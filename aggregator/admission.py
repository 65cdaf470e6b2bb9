"""Every check between a stranger's bytes and the model, each with its own named refusal.

Three gates in this order: the header before the first byte is read, the chunks while they arrive
(`fedcore.wire.blobs`), the whole blob before anything is kept. Nothing refused is ever folded.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from aggregator.records import StoreReader
from fedcore.codecs.base import codec_of, count
from fedcore.config import Experiment
from fedcore.errors import IdentityError, Refusal, UpdateError
from fedcore.identity import Identity, Role
from fedcore.plan import RoundPlan
from fedcore.tensors import Schema
from fedcore.types import Ticket, Update
from fedcore.update_blob import unpack_update
from fedcore.wire.messages import UploadHeader

__all__ = ["Admission", "OpenRound"]

_HEADER_BYTES = 8192  # safetensors' own header: the note ...
_HEADER_BYTES_PER_PART = 256  # ... and dtype, shape and offsets of each part
_PARTS_PER_TENSOR = 2
_LARGEST_VALUE_BYTES = 8  # a codec without a fixed size sends at most a value and its index


@dataclass(frozen=True, kw_only=True)
class OpenRound:
    """The round that takes updates.

    Attributes:
        plan: what was asked for.
        plan_bytes: as sent.
        plan_digest: of these bytes.
        schema: of the global weights.
        inline_weights: the artefact itself if it is small enough to travel with the plan, or b"".
    """

    plan: RoundPlan
    plan_bytes: bytes
    plan_digest: str
    schema: Schema
    inline_weights: bytes = b""

    @functools.cached_property
    def max_bytes(self) -> int:
        """Largest blob that an honest client can make of this schema."""
        payload = codec_of(self.plan.codec).payload_bytes(self.schema)
        if payload is None:
            payload = _LARGEST_VALUE_BYTES * count(self.schema)
        names = sum(6 * len(name) + _HEADER_BYTES_PER_PART for name in self.schema)
        return payload + _PARTS_PER_TENSOR * names + _HEADER_BYTES


class Admission:
    """Compares uploads with the experiment, the open round and what was accepted before.

    Args:
        experiment: names the clients and the runs.
        store: what was asked and accepted.
    """

    def __init__(self, experiment: Experiment, store: StoreReader) -> None:
        self._clients = frozenset(experiment.client_ids)
        self._run_ids = frozenset(experiment.run_id(arm) for arm in experiment.arms)
        self._store = store

    def check_sender(self, peer: Identity, *, client_id: str) -> None:
        """Whether this peer may speak for this client.

        Raises:
            UpdateError: WRONG_IDENTITY or UNKNOWN_CLIENT.
        """
        try:
            peer.require(Role.CLIENT, name=client_id)
        except IdentityError as error:
            raise UpdateError(Refusal.WRONG_IDENTITY, str(error)) from error
        if client_id not in self._clients:
            raise UpdateError(Refusal.UNKNOWN_CLIENT, f"the experiment has no client {client_id!r}")

    def check_report(self, ticket: Ticket, *, attempt: int) -> None:
        """Whether a phase report belongs to a round that was opened, and to a take asked for.

        Raises:
            UpdateError: STALE_ROUND or BAD_HEADER.
        """
        if self._store.plan(ticket.run_id, round=ticket.round) is None:
            raise UpdateError(Refusal.STALE_ROUND, f"{ticket} was never opened")
        self._check_attempt(ticket, attempt)

    def check_header(self, header: UploadHeader, now: OpenRound | None) -> OpenRound | None:
        """Check what an upload says about itself.

        Args:
            header: of a sender that `check_sender` let pass.
            now: the open round, if one is open.

        Returns:
            The round that the upload answers; None if exactly these bytes were accepted under this
            ticket before, so that nothing more needs to be read.

        Raises:
            UpdateError: see the reasons below.
        """
        earlier = self._store.acceptance(header.ticket)
        if earlier is not None:
            if earlier.sha256 == header.sha256:
                return None
            raise UpdateError(
                Refusal.DUPLICATE, f"{header.ticket} was already answered with other bytes"
            )
        plan = self._check_round(header, now)
        if header.plan_digest != plan.plan_digest:
            raise UpdateError(
                Refusal.WRONG_PLAN, f"answers {header.plan_digest}, expected {plan.plan_digest}"
            )
        self._check_attempt(header.ticket, header.attempt)
        if header.n_bytes == 0:
            raise UpdateError(Refusal.EMPTY, "an update has at least one byte")
        if header.n_bytes > plan.max_bytes:
            raise UpdateError(
                Refusal.OVERSIZE, f"{header.n_bytes} bytes, at most {plan.max_bytes} expected"
            )
        if (other := self._store.acceptance_of_bytes(header.sha256)) is not None:
            raise UpdateError(
                Refusal.REPLAY, f"these bytes were accepted before, as {other.ticket}"
            )
        return plan

    def check_blob(self, blob: bytes | memoryview, now: OpenRound) -> Update:
        """Read the whole blob and compare its content with the plan.

        Raises:
            UpdateError: bytes, codec, names, dtypes, shapes, values, plan, kind or weight.
        """
        plan = now.plan
        update = unpack_update(
            blob, schema=now.schema, plan_digest=now.plan_digest, codec=plan.codec
        )
        if update.kind != plan.training.update:
            raise UpdateError(
                Refusal.WRONG_PLAN, f"a {update.kind}, the plan asks for a {plan.training.update}"
            )
        if update.n_examples > plan.max_examples:
            raise UpdateError(
                Refusal.BAD_WEIGHT,
                f"n_examples is {update.n_examples}, at most {plan.max_examples} allowed",
            )
        return update

    def _check_round(self, header: UploadHeader, now: OpenRound | None) -> OpenRound:
        """The round that this upload answers, if it is open."""
        ticket = header.ticket
        if ticket.run_id not in self._run_ids:
            raise UpdateError(Refusal.STALE_ROUND, f"this experiment has no run {ticket.run_id!r}")
        if now is None or (ticket.run_id, ticket.round) != (now.plan.run_id, now.plan.round):
            if self._is_just_over(ticket):
                raise UpdateError(Refusal.LATE, f"{ticket}: the round closed just before")
            where = f"round {now.plan.round} of {now.plan.run_id}" if now else "no round"
            raise UpdateError(Refusal.STALE_ROUND, f"{ticket}: {where} is open")
        if not now.plan.train:
            raise UpdateError(Refusal.WRONG_PLAN, f"{ticket}: this plan asks for no update")
        return now

    def _is_just_over(self, ticket: Ticket) -> bool:
        """Whether a round was opened, and at most the one after it: it closed a moment ago."""
        was_opened = self._store.plan(ticket.run_id, round=ticket.round) is not None
        return was_opened and self._store.plan(ticket.run_id, round=ticket.round + 2) is None

    def _check_attempt(self, ticket: Ticket, attempt: int) -> None:
        last = self._store.last_attempt(ticket)
        if last is None or attempt > last:
            raise UpdateError(Refusal.BAD_HEADER, f"{ticket} was never asked for attempt {attempt}")
