"""What the clients of a round share pairwise, and masks made of it that cancel in their sum.

testbed deals one secret to each pair of clients, out of band like a client's own secret; the
aggregator and the attacker have none of them. Whoever lacks a single client's secrets sees numbers
that are uniform and independent of what they hide, except for the sum over all clients.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fedcore.errors import ConfigError
from fedcore.seeds import ClientSecret

__all__ = ["Cohort", "PairSecrets"]

_NONCE = bytes(16)  # a key is used for one tensor of one round only


@dataclass(frozen=True)
class PairSecrets:
    """A client's secrets with all others, by their ids."""

    own_id: str
    secrets: Mapping[str, ClientSecret] = field(repr=False)

    @classmethod
    def deal(cls, own_id: str, client_ids: Iterable[str], *, master: ClientSecret) -> PairSecrets:
        """The same secret to both clients of a pair, whichever is asked first."""
        others = [other for other in client_ids if other != own_id]
        return cls(own_id, {o: master.derive("pair", *sorted((own_id, o))) for o in others})

    @classmethod
    def read(cls, path: Path, *, own_id: str) -> PairSecrets:
        """Read what testbed wrote.

        Raises:
            ConfigError: no such file, or not one.
        """
        try:
            keys = json.loads(path.read_bytes())
            return cls(own_id, {o: ClientSecret(bytes.fromhex(k)) for o, k in keys.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}: no secrets shared with other clients ({error}); expected the file that "
                "`leakwatt` wrote for this client beside its shard; copy it again"
            ) from error

    def write(self, path: Path) -> None:
        """Write them so that only their owner can read them."""
        path.touch(mode=0o600)
        path.chmod(0o600)  # one that was there keeps its mode
        path.write_text(json.dumps({other: s.key.hex() for other, s in self.secrets.items()}))

    def of_round(self, run_id: str, round: int) -> Cohort:
        """The masks of one round."""
        return Cohort(self.own_id, {o: s.derive(run_id, round) for o, s in self.secrets.items()})


@dataclass(frozen=True)
class Cohort:
    """The clients of one round, as one of them sees it."""

    own_id: str
    secrets: Mapping[str, ClientSecret] = field(repr=False)

    def mask(self, label: str, size: int) -> np.ndarray:
        """One client's mask: uint32 [size], of a fixed label the same whenever it is asked for.

        Of each pair one client adds and the other subtracts the same ChaCha20 key stream (RFC
        8439's block function), so that the masks of all clients add up to 0 modulo 2^32: the
        pairwise masks of Bonawitz et al. 2017, Sec. 4.0.1.
        """
        total = np.zeros(size, dtype=np.uint32)
        for other, secret in self.secrets.items():
            words = _key_stream(secret.derive(label).key, size)
            total = total + words if self.own_id < other else total - words
        return total


def _key_stream(key: bytes, size: int) -> np.ndarray:
    """Uint32 [size]."""
    cipher = Cipher(algorithms.ChaCha20(key, _NONCE), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(4 * size)), dtype="<u4")
