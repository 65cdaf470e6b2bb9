"""From the accepted updates of a round to the next global weights: pure in what it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from aggregator.admission import OpenRound
from aggregator.journal import BlobFolder
from aggregator.records import AcceptedUpdate, ClosedRound
from aggregator.strategies.base import RoundUpdates, StoredUpdate, strategy_of
from fedcore.config import Arm
from fedcore.defences.base import chain
from fedcore.errors import ConfigError, RunError
from fedcore.layout import RunFolder
from fedcore.tensors import Schema, pack_weights, schema_of, unpack_weights
from fedcore.types import Update
from fedcore.update_blob import unpack_update

__all__ = ["Folder", "Head"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a run stands: what the next round starts from.

    Attributes:
        round: the next round.
        weights: digest of the global weights.
        state: digest of the strategy's state.
        schema: of the weights.
        graphs: digests of the model's graphs by kind.
    """

    round: int
    weights: str
    state: str
    schema: Schema
    graphs: Mapping[str, str]


class Folder:
    """Folds rounds of one run folder. Same accepted set, same bits, whoever folds and when.

    Args:
        run: names the initial weights.
        artefacts: weights and states, by digest.
        journal: the accepted bytes.
    """

    def __init__(self, run: RunFolder, *, artefacts: BlobFolder, journal: BlobFolder) -> None:
        self._run = run
        self._artefacts = artefacts
        self._journal = journal

    def head(self, arm: Arm, closed: Sequence[ClosedRound]) -> Head:
        """Where a run stands after its closed rounds.

        Raises:
            ConfigError: the run folder was not prepared for this arm.
            RunError: an artefact is missing.
            StorageError: the disk is full.
        """
        if closed:
            last = closed[-1]
            weights = unpack_weights(self._artefacts.read(last.weights))
            return Head(
                round=last.round + 1,
                weights=last.weights,
                state=last.state,
                schema=schema_of(weights),
                graphs=self._run.read_graphs(arm),
            )
        initial = self._initial_weights(arm)
        weights = unpack_weights(self._artefacts.read(initial))
        state = pack_weights(strategy_of(arm.strategy).init(weights))
        return Head(
            round=0,
            weights=initial,
            state=self._artefacts.put(state),
            schema=schema_of(weights),
            graphs=self._run.read_graphs(arm),
        )

    def fold(
        self, arm: Arm, head: Head, now: OpenRound, accepted: Sequence[AcceptedUpdate]
    ) -> Head:
        """Fold the accepted updates of a round; a round that only evaluates changes nothing.

        Raises:
            RunError: a blob is missing, or the new weights are not finite.
            StorageError: the disk is full.
        """
        if not now.plan.train:
            return replace(head, round=head.round + 1)
        strategy = strategy_of(arm.strategy)
        updates = RoundUpdates(
            [
                StoredUpdate(
                    client_id=row.ticket.client_id,
                    n_examples=row.n_examples,
                    load=partial(self._load, row, now),
                )
                for row in accepted
            ],
            schema=head.schema,
            scratch=self._journal.root,
            defence=chain(now.plan.defences),
        )
        direction = strategy.fold(updates)
        old_state = unpack_weights(self._artefacts.read(head.state))
        weights, state = strategy.finish(
            unpack_weights(self._artefacts.read(head.weights)), old_state, direction
        )
        for name, tensor in weights.items():
            if not np.isfinite(tensor).all():
                raise RunError(
                    f"round {head.round} of {now.plan.run_id}: weight {name} overflowed; "
                    "lower the strategy's learning_rate"
                )
        return replace(
            head,
            round=head.round + 1,
            weights=self._artefacts.put(pack_weights(weights)),
            state=head.state if state is old_state else self._artefacts.put(pack_weights(state)),
        )

    def _load(self, row: AcceptedUpdate, now: OpenRound) -> Update:
        return unpack_update(
            self._journal.read(row.sha256),
            schema=now.schema,
            plan_digest=row.plan_digest,
            codec=now.plan.codec,
        )

    def _initial_weights(self, arm: Arm) -> str:
        path = self._run.initial_file
        try:
            return str(json.loads(path.read_bytes())[arm.name])
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"{path}: no initial weights for arm {arm.name!r} ({error}); "
                "the run folder is made by 'leakwatt run' or 'leakwatt data prepare'"
            ) from error
