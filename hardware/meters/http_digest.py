"""Digest authentication of HTTP (RFC 7616) with SHA-256, as Shelly's second generation asks for it.

`urllib` and `http.client` of Python 3.10 know MD5 alone, or nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import urllib.request

__all__ = ["answer_to"]


def answer_to(challenge: str, *, user: str, password: str, path: str) -> str:
    """The header "Authorization" of a GET that a server's "WWW-Authenticate" asked for.

    Args:
        challenge: that header's text.
        user: name.
        password: is hashed, and never sent.
        path: of the request, with its query.

    Raises:
        ValueError: it asks for another scheme, algorithm or quality of protection.
    """
    scheme, _, rest = challenge.partition(" ")
    asked = urllib.request.parse_keqv_list(urllib.request.parse_http_list(rest))
    algorithm = asked.get("algorithm", "MD5")
    offered = [word.strip() for word in asked.get("qop", "").split(",")]
    if (
        scheme.lower() != "digest"
        or algorithm.upper() != "SHA-256"
        or "auth" not in offered
        or not {"realm", "nonce"} <= asked.keys()
    ):
        raise ValueError(f"it asks for {challenge[:80]!r}, expected Digest with SHA-256 and auth")
    realm, nonce = asked["realm"], asked["nonce"]
    count, own = "00000001", secrets.token_hex(16)  # a fresh challenge each time
    proof = _hash(f"{user}:{realm}:{password}")
    request = _hash(f"GET:{path}")
    fields = {
        "username": user,
        "realm": realm,
        "nonce": nonce,
        "uri": path,
        "cnonce": own,
        "response": _hash(f"{proof}:{nonce}:{count}:{own}:auth:{request}"),
        **({"opaque": asked["opaque"]} if "opaque" in asked else {}),
    }
    quoted = ", ".join(f'{name}="{text}"' for name, text in fields.items())
    return f"Digest {quoted}, algorithm=SHA-256, qop=auth, nc={count}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
