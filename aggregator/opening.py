"""What a round asks for: its plan, made once, stored, and found again after a kill."""

from __future__ import annotations

import hashlib

from aggregator.admission import OpenRound
from aggregator.folding import Head
from aggregator.journal import BlobFolder
from aggregator.rounds import plan_for
from aggregator.store import Store
from fedcore.config import Arm, Experiment
from fedcore.errors import RunError
from fedcore.wire.messages import plan_to_bytes

__all__ = ["open_round"]

_INLINE_BYTES = 256 * 1024  # smaller weights travel with the plan


def open_round(
    experiment: Experiment, arm: Arm, head: Head, *, store: Store, artefacts: BlobFolder
) -> OpenRound:
    """Make the plan of an arm's next round and store it before anybody is asked.

    Raises:
        RunError: another version of Leakwatt opened this round, or the weights are missing.
        StorageError: the disk is full.
    """
    plan = plan_for(experiment, arm, round=head.round, weights=head.weights, graphs=head.graphs)
    plan_bytes = plan_to_bytes(plan)
    plan_digest = hashlib.sha256(plan_bytes).hexdigest()
    known = store.plan(plan.run_id, round=plan.round)
    if known is None:
        store.open_round(
            plan.run_id,
            round=plan.round,
            plan=plan_bytes,
            plan_digest=plan_digest,
            weights=plan.weights,
        )
    elif known.digest != plan_digest:
        raise RunError(
            f"round {plan.round} of {plan.run_id} was opened with another plan; "
            "finish the run with the version of leakwatt that started it"
        )
    return OpenRound(
        plan=plan,
        plan_bytes=plan_bytes,
        plan_digest=plan_digest,
        schema=head.schema,
        inline_weights=artefacts.read_if_small(head.weights, n_bytes=_INLINE_BYTES) or b"",
    )
