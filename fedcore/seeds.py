"""Named random streams: one per purpose, so that a new consumer never moves another's numbers.

Two roots exist and never mix (architecture, decision 1):

* `stream(seed, ...)` serves what the server decides (initial weights, partition, attack starts).
  The seed is public: it stands in the plan.
* `ClientSecret` serves what only a client may know (batch choice, encoding draws, defence
  noise). testbed hands it over out of band; it is never in a plan, digest, wire or tap, so that
  whoever holds everything on the wire cannot recompute the draws.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedcore.errors import ConfigError

__all__ = ["ClientSecret", "stream"]

_SECRET_BYTES = 32


def _label_bytes(labels: tuple[str | int, ...]) -> bytes:
    return repr(labels).encode()


def stream(root_seed: int, *labels: str | int) -> np.random.Generator:
    """The public random stream of one purpose: same seed and labels, same numbers."""
    digest = hashlib.blake2b(_label_bytes((root_seed, *labels)), digest_size=32).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


@dataclass(frozen=True)
class ClientSecret:
    """256 secret bits from which one client draws everything that must stay private.

    Streams are keyed by HMAC-SHA-256 (RFC 2104), so that one stream's numbers tell nothing
    about another's.
    """

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != _SECRET_BYTES:
            raise ConfigError(f"a client secret has {_SECRET_BYTES} bytes; got {len(self.key)}")

    @classmethod
    def random(cls) -> ClientSecret:
        """A fresh secret from the operating system."""
        return cls(secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def read(cls, path: Path) -> ClientSecret:
        """Read the hexadecimal secret file that testbed wrote (mode 0600)."""
        try:
            return cls(bytes.fromhex(path.read_text().strip()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a client secret ({error})") from error

    def write(self, path: Path) -> None:
        """Write the secret so that only its owner can read it."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.chmod(0o600)  # one that was there keeps its mode
        path.write_text(self.key.hex() + "\n")

    def derive(self, *labels: str | int) -> ClientSecret:
        """A secret of its own for another purpose or client."""
        return ClientSecret(hmac.digest(self.key, _label_bytes(labels), "sha256"))

    def stream(self, *labels: str | int) -> np.random.Generator:
        """The private random stream of one purpose, e.g. `stream("encode", run_id, round)`."""
        return np.random.default_rng(int.from_bytes(self.derive(*labels).key, "little"))
