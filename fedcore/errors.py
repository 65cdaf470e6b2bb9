"""The exception tree. Whatever Leakwatt raises on purpose is a FedcoreError with one clear line.

    FedcoreError
    ├── ConfigError        the experiment file is wrong               INVALID_ARGUMENT
    │   └── PluginError    no plugin of that name                     INVALID_ARGUMENT
    ├── UpdateError        an update breaks its round's contract      by its reason
    ├── IdentityError      the certificate does not allow this        PERMISSION_DENIED
    ├── HandshakeError     versions, backends or codecs do not match  FAILED_PRECONDITION
    ├── StorageError       the disk did not take it                   RESOURCE_EXHAUSTED
    ├── RunError           the run cannot go on                       FAILED_PRECONDITION
    ├── MeterError         a meter gave nothing usable                FAILED_PRECONDITION
    ├── KnowledgeError     the threat model does not grant this       PERMISSION_DENIED
    └── AttackError        an attack cannot be run on this            FAILED_PRECONDITION

The gRPC status is a plain name here; only `fedcore.wire` turns it into grpc.StatusCode.
"""

from __future__ import annotations

import enum
import errno
from typing import ClassVar

__all__ = [
    "AttackError",
    "ConfigError",
    "FedcoreError",
    "HandshakeError",
    "IdentityError",
    "KnowledgeError",
    "MeterError",
    "PluginError",
    "Refusal",
    "RunError",
    "StorageError",
    "UpdateError",
]


class FedcoreError(Exception):
    """Root of everything raised on purpose; its text is one line a person can act on.

    Attributes:
        status: name of the gRPC status that a peer sees.
        exit_code: of a command that ends with it.
    """

    status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 1


class ConfigError(FedcoreError):
    """The experiment file is wrong; the message names file and key."""

    status = "INVALID_ARGUMENT"
    exit_code = 2


class PluginError(ConfigError, LookupError):
    """No plugin of that kind has that name; the message names the nearest one."""


class Refusal(enum.Enum):
    """Why admission refused an update: (name in the audit table, gRPC status)."""

    TRUNCATED = ("truncated", "DATA_LOSS")
    WRONG_HASH = ("wrong-hash", "DATA_LOSS")
    OVERSIZE = ("oversize", "RESOURCE_EXHAUSTED")
    SIZE_LIE = ("size-lie", "INVALID_ARGUMENT")
    EMPTY = ("empty", "INVALID_ARGUMENT")
    CHUNK_ORDER = ("chunk-order", "INVALID_ARGUMENT")
    BAD_HEADER = ("bad-header", "INVALID_ARGUMENT")
    NOT_SAFETENSORS = ("not-safetensors", "INVALID_ARGUMENT")
    WRONG_CODEC = ("wrong-codec", "INVALID_ARGUMENT")
    WRONG_PLAN = ("wrong-plan", "FAILED_PRECONDITION")
    STALE_ROUND = ("stale-round", "FAILED_PRECONDITION")
    LATE = ("late", "DEADLINE_EXCEEDED")
    DUPLICATE = ("duplicate", "ALREADY_EXISTS")
    REPLAY = ("replay", "ALREADY_EXISTS")
    MISSING_TENSOR = ("missing-tensor", "INVALID_ARGUMENT")
    EXTRA_TENSOR = ("extra-tensor", "INVALID_ARGUMENT")
    WRONG_SHAPE = ("wrong-shape", "INVALID_ARGUMENT")
    WRONG_DTYPE = ("wrong-dtype", "INVALID_ARGUMENT")
    NOT_FINITE = ("not-finite", "INVALID_ARGUMENT")
    BAD_WEIGHT = ("bad-weight", "INVALID_ARGUMENT")
    UNKNOWN_CLIENT = ("unknown-client", "PERMISSION_DENIED")
    WRONG_IDENTITY = ("wrong-identity", "PERMISSION_DENIED")

    @property
    def label(self) -> str:
        """The reason's name in audit rows and messages."""
        return self.value[0]

    @property
    def status(self) -> str:
        """The gRPC status that the sender sees."""
        return self.value[1]


class UpdateError(FedcoreError):
    """An update breaks its round's contract; the sender must fix it.

    Attributes:
        refusal: the named reason, which also decides the gRPC status.
    """

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(f"{refusal.label}: {message}")
        self.refusal = refusal
        self.status = refusal.status  # type: ignore[misc]  # one status per reason, not per class


class IdentityError(FedcoreError):
    """The peer's certificate does not allow what it asked for."""

    status = "PERMISSION_DENIED"
    exit_code = 3


class HandshakeError(FedcoreError):
    """Protocol or package versions, backends or codecs of the two sides do not fit."""

    status = "FAILED_PRECONDITION"
    exit_code = 3


class StorageError(FedcoreError):
    """The disk did not take what was to be kept; nothing already accepted is lost."""

    status = "RESOURCE_EXHAUSTED"

    @classmethod
    def of(cls, path: object, error: OSError, *, then: str) -> StorageError:
        """What the file system refused, with the advice that its reason asks for.

        Args:
            path: that was to be written.
            error: of the operating system.
            then: what to do afterwards ("start the same run again").
        """
        advice = _STORAGE_ADVICE.get(error.errno or 0, "put that right")
        return cls(f"{path}: {error.strerror or error}; {advice} and {then}")


_PERMIT = "allow this user to write there, or name another folder,"
_MAKE_WAY = "move the file that stands where a folder must be, or name another folder,"
_STORAGE_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: _PERMIT,
    errno.EPERM: _PERMIT,
    errno.EROFS: "name a folder on a disk that can be written",
    errno.ENOTDIR: _MAKE_WAY,
    errno.EEXIST: _MAKE_WAY,
}


class RunError(FedcoreError):
    """The run cannot go on (quorum never reached, clients gone, files missing)."""

    status = "FAILED_PRECONDITION"


class MeterError(FedcoreError):
    """A meter gave nothing usable. Never replaced by a number."""

    status = "FAILED_PRECONDITION"


class KnowledgeError(FedcoreError):
    """An attack asked for something that the threat model does not grant."""

    status = "PERMISSION_DENIED"


class AttackError(FedcoreError):
    """An attack cannot be run on this observation, and why."""

    status = "FAILED_PRECONDITION"
