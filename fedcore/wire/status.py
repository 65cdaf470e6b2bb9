"""Named errors <-> gRPC status codes, so that a refusal reads the same on both sides."""

from __future__ import annotations

import grpc

from fedcore.errors import (
    ConfigError,
    FedcoreError,
    HandshakeError,
    IdentityError,
    Refusal,
    RunError,
    StorageError,
    UpdateError,
)

__all__ = ["error_of", "is_transient", "status_of"]

_BY_STATUS: dict[grpc.StatusCode, type[FedcoreError]] = {
    grpc.StatusCode.PERMISSION_DENIED: IdentityError,
    grpc.StatusCode.UNAUTHENTICATED: IdentityError,
    grpc.StatusCode.FAILED_PRECONDITION: HandshakeError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: StorageError,
    grpc.StatusCode.INVALID_ARGUMENT: ConfigError,
}
_TRANSIENT = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED}
)


def status_of(error: FedcoreError) -> grpc.StatusCode:
    """The code under which a peer sees an error."""
    return grpc.StatusCode[error.status]


def error_of(failure: grpc.RpcError) -> FedcoreError:
    """The named error behind a failed call.

    A refused update comes back as UpdateError with its reason, because the message starts with
    the reason's label.
    """
    details = failure.details() or "no details"
    label, _, message = details.partition(": ")
    for refusal in Refusal:
        if refusal.label == label:
            return UpdateError(refusal, message)
    code = failure.code()
    return _BY_STATUS.get(code, RunError)(f"{details} ({code.name})")


def is_transient(failure: grpc.RpcError) -> bool:
    """Whether calling again may help: the peer is gone for now, and nothing was refused."""
    return failure.code() in _TRANSIENT
