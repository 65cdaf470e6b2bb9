"""Where a search begins: drawn from a stream that victim and restart name, and nothing else.

A victim's starts depend neither on which other victims are attacked with it nor on their order.
The run is left out of the name, so that the arms of an experiment are attacked from equal starts.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from fedcore.nn.arrays import to_array
from fedcore.seeds import stream
from fedcore.types import Ticket

__all__ = ["StartKind", "draw_start", "streams_from"]

StartKind = Literal["normal", "uniform"]


def draw_start(kind: StartKind, n: int, *, seed: int, ticket: Ticket, restart: int) -> np.ndarray:
    """Draw one start, float32 [n].

    Args:
        kind: "normal" for N(0, 1), as Zhu et al. 2019 begin; "uniform" for U(0, 1).
        n: number of variables.
        seed: of the attack.
        ticket: of the victim.
        restart: its number.
    """
    rng = stream(seed, "start", ticket.round, ticket.client_id, restart)
    drawn = rng.normal(size=n) if kind == "normal" else rng.uniform(size=n)
    return drawn.astype(np.float32)


def streams_from(starts: Tensor, purpose: str) -> list[np.random.Generator]:
    """A stream for each row, seeded by what was drawn as its start, [row, variable]."""
    return [stream(0, purpose, to_array(start).tobytes().hex()) for start in starts]
