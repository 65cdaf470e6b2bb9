"""The clients that are connected, and what is on its way to each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

__all__ = [
    "Farewell",
    "HeartbeatReply",
    "RoundClosed",
    "RoundStart",
    "ServerMessage",
    "Session",
    "Welcome",
]


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """The handshake was good; heartbeats are expected every `heartbeat_s`."""

    heartbeat_s: float


@dataclass(frozen=True, kw_only=True)
class RoundStart:
    """A plan, and the weights themselves where they are small (else b"")."""

    plan: bytes
    weights: bytes
    attempt: int


@dataclass(frozen=True, kw_only=True)
class RoundClosed:
    """Whose updates made the next weights."""

    run_id: str
    round: int
    accepted: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HeartbeatReply:
    """An echo with the server's wall clock."""

    sequence: int
    sent_wall_ns: int
    server_wall_ns: int


@dataclass(frozen=True, kw_only=True)
class Farewell:
    """The last message: go home, or come back later."""

    reason: str
    finished: bool


ServerMessage = Welcome | RoundStart | RoundClosed | HeartbeatReply | Farewell


class Session:
    """One client's stream.

    Args:
        client_id: from its certificate.
        heard_s: monotonic time of its hello, in s.
    """

    def __init__(self, client_id: str, *, heard_s: float) -> None:
        self.client_id = client_id
        self.heard_s = heard_s
        self.went_home = False  # took its Farewell
        self._outbox: asyncio.Queue[ServerMessage | None] = asyncio.Queue()

    def send(self, message: ServerMessage) -> None:
        """Put a message on its way; after a Farewell the stream ends."""
        self._outbox.put_nowait(message)
        if isinstance(message, Farewell):
            self.close()

    def close(self) -> None:
        """End the stream after what is on its way."""
        self._outbox.put_nowait(None)

    async def messages(self) -> AsyncIterator[ServerMessage]:
        """What to write to the stream, until it is closed."""
        while (message := await self._outbox.get()) is not None:
            yield message
            self.went_home = isinstance(message, Farewell)
