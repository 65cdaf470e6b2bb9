"""Messages <-> fedcore types. After these functions nobody asks whether a field was good."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedcore.energy import (
    DIVERGED,
    Boundary,
    EnergyReading,
    Evaluation,
    ModelledEnergy,
    Phase,
    PhaseRecord,
    PhaseReport,
    Surroundings,
)
from fedcore.errors import ConfigError, HandshakeError, Refusal, UpdateError
from fedcore.plan import RoundPlan
from fedcore.strict import canonical_json, parse
from fedcore.types import Missing, Ticket, check_id
from protos.v1 import rounds_pb2, types_pb2

__all__ = [
    "PROTOCOL",
    "Hello",
    "UploadHeader",
    "header_from_proto",
    "header_to_proto",
    "hello_from_proto",
    "hello_to_proto",
    "plan_from_bytes",
    "plan_to_bytes",
    "report_from_proto",
    "report_to_proto",
    "ticket_from_proto",
    "ticket_to_proto",
]

PROTOCOL = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT = 200
_MAX_ITEMS = 64
_MAX_CARD_BYTES = 64 * 1024
_MAX_PHASES = 64
_MAX_EXAMPLES = 1 << 32  # far from what the store's 63-bit numbers hold, also when summed


@dataclass(frozen=True, kw_only=True)
class UploadHeader:
    """What an upload says before its first byte."""

    ticket: Ticket
    attempt: int
    plan_digest: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Who a client is and what it can do."""

    client_id: str
    protocol: int = PROTOCOL
    versions: Mapping[str, str] = field(default_factory=dict)
    backends: tuple[str, ...] = ()
    codecs: tuple[str, ...] = ()
    machine_card: Mapping[str, Any] = field(default_factory=dict)


def plan_to_bytes(plan: RoundPlan) -> bytes:
    """Canonical JSON; its SHA-256 is the plan's digest."""
    return canonical_json(plan)


def plan_from_bytes(data: bytes) -> tuple[RoundPlan, str]:
    """A plan and the digest of exactly these bytes.

    Raises:
        HandshakeError: not a plan of this version of Leakwatt.
    """
    try:
        plan = parse(RoundPlan, json.loads(data), where="plan")
    except (ValueError, RecursionError, ConfigError) as error:
        raise HandshakeError(f"the aggregator's plan does not fit this version: {error}") from error
    return plan, hashlib.sha256(data).hexdigest()


def ticket_to_proto(ticket: Ticket) -> types_pb2.Ticket:
    """See `Ticket`."""
    return types_pb2.Ticket(run_id=ticket.run_id, round=ticket.round, client_id=ticket.client_id)


def ticket_from_proto(message: types_pb2.Ticket) -> Ticket:
    """Read a ticket.

    Raises:
        UpdateError: an id does not match its pattern.
    """
    try:
        return Ticket(run_id=message.run_id, round=message.round, client_id=message.client_id)
    except ConfigError as error:
        raise UpdateError(Refusal.BAD_HEADER, str(error)) from error


def header_to_proto(header: UploadHeader) -> types_pb2.UploadHeader:
    """See `UploadHeader`."""
    return types_pb2.UploadHeader(
        ticket=ticket_to_proto(header.ticket),
        attempt=header.attempt,
        plan_digest=header.plan_digest,
        n_bytes=header.n_bytes,
        sha256=header.sha256,
    )


def header_from_proto(message: types_pb2.UploadHeader) -> UploadHeader:
    """Read an upload's header.

    Raises:
        UpdateError: an id or digest does not match its pattern.
    """
    for name in ("sha256", "plan_digest"):
        if not _SHA256.fullmatch(getattr(message, name)):
            raise UpdateError(Refusal.BAD_HEADER, f"{name} is not a SHA-256 in hexadecimal")
    return UploadHeader(
        ticket=ticket_from_proto(message.ticket),
        attempt=message.attempt,
        plan_digest=message.plan_digest,
        n_bytes=message.n_bytes,
        sha256=message.sha256,
    )


def hello_to_proto(hello: Hello) -> rounds_pb2.Hello:
    """See `Hello`."""
    return rounds_pb2.Hello(
        protocol=hello.protocol,
        client_id=hello.client_id,
        versions=dict(hello.versions),
        backends=hello.backends,
        codecs=hello.codecs,
        machine_card=canonical_json(hello.machine_card),
    )


def hello_from_proto(message: rounds_pb2.Hello) -> Hello:
    """Read a handshake.

    Raises:
        HandshakeError: another protocol, or a field beyond its bounds.
    """
    if message.protocol != PROTOCOL:
        raise HandshakeError(
            f"the client speaks protocol {message.protocol}, this side {PROTOCOL}; "
            "install the same leakwatt version on both"
        )
    texts = [*message.versions, *message.versions.values(), *message.backends, *message.codecs]
    if len(texts) > 4 * _MAX_ITEMS or any(len(text) > _MAX_TEXT for text in texts):
        raise HandshakeError("the handshake lists too many or too long names")
    if len(message.machine_card) > _MAX_CARD_BYTES:
        raise HandshakeError(f"a machine card of {len(message.machine_card)} bytes is too large")
    try:
        card = json.loads(message.machine_card or b"{}")
        canonical_json(card)  # NaN and depths that json reads but nobody can write again
        client_id = check_id(message.client_id, what="client id")
    except (ValueError, RecursionError, ConfigError) as error:
        raise HandshakeError(f"the handshake cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise HandshakeError("the machine card is not a table")
    return Hello(
        client_id=client_id,
        protocol=message.protocol,
        versions=dict(message.versions),
        backends=tuple(message.backends),
        codecs=tuple(message.codecs),
        machine_card=card,
    )


def report_to_proto(report: PhaseReport) -> rounds_pb2.PhaseReport:
    """See `PhaseReport`."""
    message = rounds_pb2.PhaseReport(
        ticket=ticket_to_proto(report.ticket),
        attempt=report.attempt,
        phases=[_phase_to_proto(record) for record in report.phases],
        clock_offset_s=report.clock_offset_s,
        clock_uncertainty_s=report.clock_uncertainty_s,
        machine_card=report.machine_card,
    )
    if report.surroundings is not None:
        message.surroundings = canonical_json(report.surroundings)
    if report.evaluation is not None:
        message.evaluation.n_correct = report.evaluation.n_correct
        message.evaluation.n_examples = report.evaluation.n_examples
        if not isinstance(report.evaluation.mean_loss, Missing):
            message.evaluation.mean_loss = report.evaluation.mean_loss
    return message


def report_from_proto(message: rounds_pb2.PhaseReport) -> PhaseReport:
    """Read a phase report.

    Raises:
        UpdateError: an unknown phase or boundary, a number that is not finite or cannot be, too
            many phases, an evaluation that cannot be.
    """
    if len(message.phases) > _MAX_PHASES:
        raise UpdateError(
            Refusal.BAD_HEADER, f"{len(message.phases)} phases; {_MAX_PHASES} allowed"
        )
    try:
        phases = tuple(_phase_from_proto(record) for record in message.phases)
    except ValueError as error:  # an unknown enum value
        raise UpdateError(Refusal.BAD_HEADER, str(error)) from error
    return PhaseReport(
        ticket=ticket_from_proto(message.ticket),
        attempt=message.attempt,
        phases=phases,
        evaluation=(
            _evaluation_from_proto(message.evaluation) if message.HasField("evaluation") else None
        ),
        clock_offset_s=_finite(message.clock_offset_s),
        clock_uncertainty_s=_not_negative(message.clock_uncertainty_s),
        machine_card=_text(message.machine_card),
        surroundings=_surroundings_from_bytes(message.surroundings),
    )


def _surroundings_from_bytes(data: bytes) -> Surroundings | None:
    if not data:
        return None
    if len(data) > _MAX_CARD_BYTES:
        raise UpdateError(Refusal.BAD_HEADER, f"surroundings of {len(data)} bytes are too large")
    try:
        found = parse(Surroundings, json.loads(data), where="surroundings")
        canonical_json(found)  # NaN, which json reads
    except (ValueError, RecursionError, ConfigError) as error:
        raise UpdateError(Refusal.BAD_HEADER, str(error)) from error
    return found


def _evaluation_from_proto(message: rounds_pb2.Evaluation) -> Evaluation:
    if not message.n_correct <= message.n_examples or not 1 <= message.n_examples <= _MAX_EXAMPLES:
        raise UpdateError(
            Refusal.BAD_HEADER,
            f"an evaluation says {message.n_correct} of {message.n_examples} examples correct; "
            f"expected 0 to all of 1 to {_MAX_EXAMPLES}",
        )
    return Evaluation(
        n_correct=message.n_correct,
        n_examples=message.n_examples,
        mean_loss=_finite(message.mean_loss) if message.HasField("mean_loss") else DIVERGED,
    )


def _phase_to_proto(record: PhaseRecord) -> rounds_pb2.PhaseRecord:
    message = rounds_pb2.PhaseRecord(
        phase=record.phase.value,
        start_mono_ns=record.start_mono_ns,
        duration_s=record.duration_s,
        cpu_s=record.cpu_s,
    )
    if isinstance(record.measured, Missing):
        message.measured_missing = record.measured.why
    else:
        message.measured.extend(
            rounds_pb2.EnergyReading(
                energy_j=reading.energy_j,
                uncertainty_j=reading.uncertainty_j,
                duration_s=reading.duration_s,
                rail=reading.rail,
                boundary=reading.boundary.value,
                method=reading.method,
                coverage=reading.coverage,
                n_samples=reading.n_samples,
                longest_gap_s=reading.longest_gap_s,
                meter=reading.meter,
                flags=reading.flags,
            )
            for reading in record.measured
        )
    if isinstance(record.modelled, Missing):
        message.modelled_missing = record.modelled.why
    else:
        message.modelled.CopyFrom(
            rounds_pb2.ModelledEnergy(
                energy_j=record.modelled.energy_j,
                low_j=record.modelled.low_j,
                high_j=record.modelled.high_j,
                model=record.modelled.model,
                inputs=record.modelled.inputs,
            )
        )
    return message


def _phase_from_proto(message: rounds_pb2.PhaseRecord) -> PhaseRecord:
    measured: tuple[EnergyReading, ...] | Missing = tuple(
        _reading_from_proto(reading) for reading in message.measured
    )
    if not measured:
        measured = Missing(why=_text(message.measured_missing) or "the client gave no reason")
    modelled: ModelledEnergy | Missing
    if message.HasField("modelled"):
        modelled = _estimate_from_proto(message.modelled)
    else:
        modelled = Missing(why=_text(message.modelled_missing) or "the client gave no reason")
    return PhaseRecord(
        phase=Phase(message.phase),
        start_mono_ns=message.start_mono_ns,
        duration_s=_not_negative(message.duration_s),
        cpu_s=_not_negative(message.cpu_s),
        measured=measured,
        modelled=modelled,
    )


def _reading_from_proto(message: rounds_pb2.EnergyReading) -> EnergyReading:
    if message.method not in ("counter", "integrated"):
        raise UpdateError(Refusal.BAD_HEADER, f"unknown method {_text(message.method)!r}")
    if message.coverage > 1:
        raise UpdateError(Refusal.BAD_HEADER, f"samples cover {message.coverage} of their window")
    return EnergyReading(
        energy_j=_finite(message.energy_j),  # below 0 where a current flows back
        uncertainty_j=_not_negative(message.uncertainty_j),
        duration_s=_not_negative(message.duration_s),
        rail=_text(message.rail),
        boundary=Boundary(message.boundary),
        method="counter" if message.method == "counter" else "integrated",
        coverage=_not_negative(message.coverage),
        n_samples=message.n_samples,
        longest_gap_s=_not_negative(message.longest_gap_s),
        meter=_text(message.meter),
        flags=tuple(_text(flag) for flag in message.flags[:_MAX_ITEMS]),
    )


def _estimate_from_proto(message: rounds_pb2.ModelledEnergy) -> ModelledEnergy:
    low_j, high_j = _not_negative(message.low_j), _finite(message.high_j)
    if not low_j <= message.energy_j <= high_j:
        raise UpdateError(
            Refusal.BAD_HEADER,
            f"a modelled energy of {message.energy_j} J lies outside its interval, "
            f"{low_j} to {high_j} J",
        )
    return ModelledEnergy(
        energy_j=message.energy_j,
        low_j=low_j,
        high_j=high_j,
        model=_text(message.model),
        inputs=_text(message.inputs),
    )


def _not_negative(value: float) -> float:
    if value < 0:
        raise UpdateError(
            Refusal.BAD_HEADER, f"the phase report holds {value} where nothing is below 0"
        )
    return _finite(value)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise UpdateError(Refusal.NOT_FINITE, "the phase report holds a number that is not finite")
    return value


def _text(value: str) -> str:
    """A peer's text, cut to what a table can hold; it is escaped where it is shown."""
    return value[:_MAX_TEXT]
