"""From received bytes to an observation: the one way for the live tap and for the journal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedcore.errors import RunError
from fedcore.tensors import schema_of, unpack_weights
from fedcore.types import Observation, TensorMap, ThreatModel, Ticket
from fedcore.update_blob import unpack_update
from fedcore.wire.messages import UploadHeader, plan_from_bytes

__all__ = [
    "AllOver",
    "Artefacts",
    "Event",
    "RunOver",
    "Seen",
    "assumptions",
    "observe",
    "restricted",
]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One accepted update went by; it was read if anybody wanted it."""

    ticket: Ticket
    observation: Observation | None


@dataclass(frozen=True, kw_only=True)
class RunOver:
    """No update of this run is still to come."""

    run_id: str


@dataclass(frozen=True, kw_only=True)
class AllOver:
    """Every run is over."""


Event = Seen | RunOver | AllOver


class Artefacts:
    """Global weights by digest, each fetched once.

    Args:
        fetch: digest -> artefact, unchecked.
    """

    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch
        self._weights: dict[str, TensorMap] = {}

    def weights(self, sha256: str) -> TensorMap:
        """Global weights.

        Raises:
            RunError: what was fetched is something else.
        """
        if sha256 not in self._weights:
            blob = self._fetch(sha256)
            if (found := hashlib.sha256(blob).hexdigest()) != sha256:
                raise RunError(f"artefact {sha256} has SHA-256 {found}: it was altered on its way")
            self._weights[sha256] = unpack_weights(blob)
        return self._weights[sha256]


def observe(
    header: UploadHeader, *, plan: bytes, blob: bytes | memoryview, artefacts: Artefacts
) -> Observation:
    """What one accepted update shows.

    Args:
        header: of the upload.
        plan: as the attacker may see it; its digest is not the header's where a part is withheld.
        blob: the received bytes, whose hash is the header's.
        artefacts: where the plan's weights come from.

    Raises:
        UpdateError: the bytes do not fit the plan.
        RunError: the weights are not the plan's.
    """
    visible, _ = plan_from_bytes(plan)
    weights = artefacts.weights(visible.weights)
    update = unpack_update(
        blob, schema=schema_of(weights), plan_digest=header.plan_digest, codec=visible.codec
    )
    return Observation(
        ticket=header.ticket,
        plan=visible,
        weights=weights,
        tensors=update.tensors,
        kind=update.kind,
        n_examples=update.n_examples,
        sha256=header.sha256,
        n_bytes=header.n_bytes,
    )


def restricted(seen: Observation, threat: ThreatModel) -> Observation:
    """An observation without what the threat model withholds, whatever the tap has shown.

    The number of examples stands in the update's own bytes, which no tap can alter; this is where
    it is taken out. As many are assumed as the plan asks for, all of them distinct.
    """
    plan = threat.shown(seen.plan)
    asked_for = plan.training.batch_size * plan.training.local_steps
    n_examples = seen.n_examples if threat.n_examples else asked_for
    return replace(seen, plan=plan, n_examples=n_examples)


def assumptions(seen: Observation, threat: ThreatModel) -> dict[str, float]:
    """What a restricted observation assumes in the place of what is withheld, by name."""
    assumed: dict[str, float] = {}
    if not threat.n_examples:
        assumed["assumed examples"] = seen.n_examples
    if not threat.surrogate and seen.plan.model.spiking:
        assumed["assumed sharpness"] = seen.plan.model.neuron.sharpness
    return assumed
