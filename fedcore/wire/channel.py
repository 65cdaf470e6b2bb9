"""Mutual TLS: the certificates of one service, and the gRPC credentials made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from fedcore.errors import ConfigError, IdentityError
from fedcore.identity import Identity

__all__ = ["SERVER_NAME", "CertFiles", "channel_options", "peer_identity"]

SERVER_NAME = "aggregator.leakwatt"
"""The DNS name in the aggregator's certificate, whatever address it is reached at."""

_MAX_MESSAGE_BYTES = 4 << 20  # one chunk and its frame, with room for a phase report


@dataclass(frozen=True, kw_only=True)
class CertFiles:
    """PEM files of one service: the authority, its own certificate and key."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> CertFiles:
        """The files that `leakwatt certs` wrote for a service."""
        return cls(
            authority=folder / "ca.crt",
            certificate=folder / f"{name}.crt",
            key=folder / f"{name}.key",
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a client or attacker."""
        authority, certificate, key = self._read()
        return grpc.ssl_channel_credentials(authority, key, certificate)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of the aggregator, which asks every peer for a certificate."""
        authority, certificate, key = self._read()
        return grpc.ssl_server_credentials(
            [(key, certificate)], authority, require_client_auth=True
        )

    def _read(self) -> tuple[bytes, bytes, bytes]:
        try:
            return self.authority.read_bytes(), self.certificate.read_bytes(), self.key.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: {error.strerror}; make certificates with 'leakwatt certs'"
            ) from error


def channel_options() -> list[tuple[str, int | str]]:
    """GRPC options of both ends: bounded messages, keepalives that survive long local training."""
    return [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.ssl_target_name_override", SERVER_NAME),
    ]


def peer_identity(auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
    """The identity in the peer's verified certificate.

    Raises:
        IdentityError: no certificate, or none of ours.
    """
    for name in auth_context.get("x509_subject_alternative_name", []):
        text = name.decode(errors="replace")
        if text.startswith("leakwatt://"):
            return Identity.from_uri(text)
    raise IdentityError("the peer shows no Leakwatt certificate")
