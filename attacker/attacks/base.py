"""What an attack is: observations and granted knowledge in, reconstructions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedcore.nn.models import build
from fedcore.plan import ModelSpec
from fedcore.types import Knowledge, Observation, Reconstruction

if TYPE_CHECKING:
    from fedcore.nn.models.network import Network

__all__ = ["NO_LABEL", "Attack", "Budget", "NetworkOf", "Progress", "refusal", "tell_part"]

NO_LABEL = -1
"""Stands for a label that nothing tells, as where there is no candidate."""

NetworkOf = Callable[[ModelSpec], "Network"]
"""The structure behind a spec: `fedcore.nn.models.build`, or a person's own network."""

Progress = Callable[[int, int, np.ndarray], None]
"""Told now and then: iterations done, iterations in all, lowest own loss of each victim."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an attack may spend on each victim.

    Attributes:
        restarts: independent starts.
        iterations: gradient evaluations of the objective per start.
    """

    restarts: int
    iterations: int


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack; the fields of a subclass are its options."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Capabilities (fields of `ThreatModel`) without which it refuses to start."""
        return ()

    @abstractmethod
    def reconstruct(
        self,
        seen: Sequence[Observation],
        known: Sequence[Knowledge],
        *,
        rng: np.random.Generator,
        budget: Budget,
        progress: Progress,
        network_of: NetworkOf = build,
    ) -> list[Reconstruction]:
        """Attack all victims together.

        Args:
            seen: one observation per victim; rounds, weights and models may differ.
            known: what was told about each.
            rng: seeds the starts. One start depends on this, its ticket's round and client and
                its number only, not on the other victims.
            budget: per victim.
            progress: told now and then.
            network_of: gives the networks that are attacked.

        Returns:
            One answer per observation, in their order. A victim for which there is no candidate
            is among them, with the reason in `failed`.

        Raises:
            KnowledgeError: a capability is needed that was not granted; the message names it.
            AttackError: no victim of this kind can be attacked.
        """


def refusal(
    seen: Observation, *, attack: str, budget: Budget, why: str, knowledge: tuple[str, ...] = ()
) -> Reconstruction:
    """Keeps the place of a victim for which there is no candidate.

    Args:
        seen: the victim.
        attack: registered name.
        budget: gives the number of restarts.
        why: one line.
        knowledge: capabilities that were used.
    """
    return Reconstruction(
        ticket=seen.ticket,
        sha256=seen.sha256,
        attack=attack,
        candidates=np.full((budget.restarts, 1, *seen.plan.model.input_shape), np.nan, np.float32),
        labels=np.full((budget.restarts, 1), NO_LABEL, np.int64),
        losses=np.full(budget.restarts, np.nan, np.float32),
        loss_curves=np.full((budget.restarts, 1), np.nan, np.float32),
        n_iterations=0,
        duration_s=0.0,
        knowledge=knowledge,
        failed=why,
    )


def tell_part(
    progress: Progress, number: int, n_parts: int, done: int, total: int, losses: np.ndarray
) -> None:
    """Tell the progress of one of equal parts (groups, turns, portions) as one of the whole."""
    progress(number * total + done, n_parts * total, losses)
