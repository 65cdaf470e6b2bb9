"""Certificates of one cluster: an authority, and one pair per service with its role inside."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedcore.identity import Identity, Role
from fedcore.wire.channel import SERVER_NAME, CertFiles

__all__ = ["make_certificates"]

_VALID = datetime.timedelta(days=365)
_CLOCK_SKEW = datetime.timedelta(hours=1)  # a board without a battery-backed clock starts late


def make_certificates(folder: Path, *, client_ids: Iterable[str]) -> None:
    """Write `ca.crt` and one `<name>.crt`, `<name>.key` per service.

    The authority's key is dropped, so nobody can add a service later without making the whole set
    anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("leakwatt authority", key=authority_key, issuer_key=authority_key)
    (folder / "ca.crt").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    services = [
        Identity(role=Role.AGGREGATOR, name="aggregator"),
        Identity(role=Role.ATTACKER, name="attacker"),
        *(Identity(role=Role.CLIENT, name=client_id) for client_id in client_ids),
    ]
    for identity in services:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(
            identity.name, key=key, issuer_key=authority_key, issuer=authority, identity=identity
        )
        files = CertFiles.of(folder, identity.name)
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.touch(mode=0o600)
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def _certificate(
    common_name: str,
    *,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None = None,
    identity: Identity | None = None,
) -> x509.Certificate:
    """An authority when there is no issuer, else a service's certificate signed by it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if identity is not None:
        is_server = identity.role is Role.AGGREGATOR
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
        if is_server:
            names.append(x509.DNSName(SERVER_NAME))
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
