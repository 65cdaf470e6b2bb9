"""Who a peer is: the role and name that its certificate carries."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fedcore.errors import ConfigError, IdentityError
from fedcore.types import check_id

__all__ = ["Identity", "Role"]

_SCHEME = "leakwatt://"


class Role(enum.Enum):
    """What a certificate allows: a role's calls, and nothing of another's."""

    AGGREGATOR = "aggregator"
    CLIENT = "client"
    ATTACKER = "attacker"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A role and a name, written into the certificate as the URI `leakwatt://role/name`."""

    role: Role
    name: str

    @property
    def uri(self) -> str:
        """The certificate's subject alternative name."""
        return f"{_SCHEME}{self.role.value}/{self.name}"

    @classmethod
    def from_uri(cls, uri: str) -> Identity:
        """Read a certificate's name.

        Raises:
            IdentityError: it is not one of ours.
        """
        if not uri.startswith(_SCHEME):
            raise IdentityError(f"{uri!r} is not a Leakwatt name")
        role, _, name = uri.removeprefix(_SCHEME).partition("/")
        try:
            return cls(role=Role(role), name=check_id(name, what="certificate name"))
        except (ValueError, ConfigError) as error:
            raise IdentityError(f"the certificate names nobody known here: {uri!r}") from error

    def require(self, role: Role, *, name: str | None = None) -> None:
        """Check that this peer may act in a role, and under a name.

        Raises:
            IdentityError: it may not.
        """
        if self.role is not role:
            raise IdentityError(f"{self.uri} may not call what is for the role {role.value!r}")
        if name is not None and self.name != name:
            raise IdentityError(f"{self.uri} may not act as {name!r}")
