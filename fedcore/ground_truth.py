"""What really was in a client's batch, sealed so that only the judge can read it.

Protected: written by `edge_client.vault`; read by `testbed.judge` and `testbed.disclose` alone.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from fedcore.errors import RunError
from fedcore.strict import canonical_json
from fedcore.types import Ticket

__all__ = ["JudgeKey", "VictimRecord", "open_record", "read_public_key", "seal_record"]


@dataclass(frozen=True, kw_only=True)
class VictimRecord:
    """The truth behind one update, under the SHA-256 of the bytes that were sent.

    Attributes:
        inputs: raw, before encoding, in [0, 1], float32 [example, feature...]; local steps follow
            each other along the first axis.
        labels: int64 [example].
        encoded_input: what the network saw, float32 [time, example, feature...].
        batch_sizes: examples per local step.
    """

    ticket: Ticket
    sha256: str
    inputs: np.ndarray
    labels: np.ndarray
    encoded_input: np.ndarray
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True)
class JudgeKey:
    """The judge's X25519 key pair; clients get the public half."""

    private: PrivateKey

    @classmethod
    def generate(cls) -> JudgeKey:
        """A fresh pair from the operating system's generator."""
        return cls(PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> JudgeKey:
        """Read the private half.

        Raises:
            RunError: no key there, or not one.
        """
        try:
            return cls(PrivateKey(bytes.fromhex(path.read_text().strip())))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: no judge key ({error}); truth cannot be opened") from error

    def write(self, *, private: Path, public: Path) -> None:
        """Write both halves; the private one only its owner can read."""
        for path, key, mode in (
            (private, self.private, 0o600),
            (public, self.private.public_key, 0o644),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=mode)
            path.chmod(mode)  # one that was there keeps its mode
            path.write_text(bytes(key).hex() + "\n")


def read_public_key(path: Path) -> PublicKey:
    """The half that clients seal with.

    Raises:
        RunError: no key there, or not one.
    """
    try:
        return PublicKey(bytes.fromhex(path.read_text().strip()))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: no public key of the judge ({error})") from error


def seal_record(record: VictimRecord, *, to: PublicKey) -> bytes:
    """Encrypt a record (libsodium sealed box: X25519, XSalsa20-Poly1305, an ephemeral sender)."""
    facts = {"ticket": record.ticket, "sha256": record.sha256, "batch_sizes": record.batch_sizes}
    plain = io.BytesIO()
    np.savez_compressed(
        plain,
        facts=np.frombuffer(canonical_json(facts), dtype=np.uint8),
        inputs=record.inputs,
        labels=record.labels,
        encoded_input=record.encoded_input,
    )
    return SealedBox(to).encrypt(plain.getvalue())


def open_record(sealed: bytes, *, key: JudgeKey) -> VictimRecord:
    """Decrypt a record.

    Raises:
        RunError: sealed for another key, or altered.
    """
    try:
        plain = SealedBox(key.private).decrypt(sealed)
    except (CryptoError, ValueError, TypeError) as error:
        raise RunError("a sealed record was made for another judge key, or was altered") from error
    with np.load(io.BytesIO(plain), allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        return VictimRecord(
            ticket=Ticket(**facts["ticket"]),
            sha256=facts["sha256"],
            inputs=arrays["inputs"],
            labels=arrays["labels"],
            encoded_input=arrays["encoded_input"],
            batch_sizes=tuple(facts["batch_sizes"]),
        )
