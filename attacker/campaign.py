"""The attacker's part in an experiment, from the tap to the reconstructions.

    gather the victims' updates -> take what is granted -> attack an arm in portions -> write

A finished arm is not attacked again, nor is a finished portion of one that was interrupted. The
portion that was under way begins anew: its starts come from the experiment's seed, so it takes the
same way again and ends at the same answers.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from attacker.attacks import ATTACKS
from attacker.attacks.base import Budget, Progress, refusal
from attacker.observations import AllOver, Event, RunOver, Seen, assumptions, restricted
from attacker.portions import in_portions
from attacker.progress import ProgressFile
from attacker.secure_sums import round_sums
from fedcore.config import Arm, AttackConfig, Experiment
from fedcore.disclosure import read_knowledge
from fedcore.errors import AttackError, KnowledgeError
from fedcore.health import Pulse
from fedcore.layout import RunFolder
from fedcore.plan import Choice
from fedcore.reconstructions import read_reconstructions, request_behind, write_reconstructions
from fedcore.seeds import stream
from fedcore.strict import build, digest
from fedcore.types import Knowledge, Observation, Reconstruction, ThreatModel, Ticket

__all__ = ["Campaign"]

log = logging.getLogger(__name__)

_POLL_S = 0.25
_GRANT_BEHIND = {
    "labels": "labels",
    "step_order": "step_order",
    "encoded_input": "encoded_input",
    "batch_statistics": "batch_statistics",
    "auxiliary_inputs": "auxiliary_data",
    "auxiliary_labels": "auxiliary_data",
}
"""Fields of `Knowledge` and the capability that each needs."""


class Campaign:
    """Attacks the arms of one experiment.

    Args:
        experiment: as resolved in the run folder.
        run: where granted knowledge lies and answers go.
        attacks: by arm's name; another arm is left alone.
        out: instead of the run's attack folder.
        waits: for knowledge that is not disclosed yet; else that is an error.
        pulse: beats whenever something moves on.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: RunFolder,
        *,
        attacks: Mapping[str, AttackConfig],
        out: Path | None = None,
        waits: bool = True,
        pulse: Pulse,
    ) -> None:
        self._run = run
        self._seed = experiment.seed
        self._experiment_digest = experiment.digest
        self._arms = {
            experiment.run_id(arm): replace(arm, attack=attacks[arm.name])
            for arm in experiment.arms
            if arm.name in attacks
        }
        self._out = out
        self._waits = waits
        self._pulse = pulse
        self._victims: dict[str, dict[Ticket, Observation]] = {run_id: {} for run_id in self._arms}
        self._attacked: set[str] = set()

    def wants(self, ticket: Ticket) -> bool:
        """Whether an update is a victim's."""
        arm = self._arms.get(ticket.run_id)
        return arm is not None and ticket.round in arm.attack.victim_rounds

    def follow(self, events: Iterable[Event]) -> None:
        """Attack each arm when its victims are complete, or, "after", when every run is over.

        Raises:
            RunError: granted knowledge is not there, and nobody waits for it.
            StorageError: the disk did not take the answers.
        """
        for event in events:
            self._pulse.beat()
            if isinstance(event, Seen):
                self._see(event)
            elif isinstance(event, RunOver):
                self._attack_live(event.run_id)
            elif isinstance(event, AllOver):
                for run_id in self._arms:
                    self._attack(run_id)

    def answers(self) -> dict[str, tuple[Reconstruction, ...]]:
        """What was written, by arm's name."""
        return {
            arm.name: read_reconstructions(self._folder(run_id))
            for run_id, arm in self._arms.items()
        }

    def _see(self, event: Seen) -> None:
        ticket = event.ticket
        arm = self._arms.get(ticket.run_id)
        if arm is not None and event.observation is not None:
            self._victims[ticket.run_id][ticket] = restricted(event.observation, arm.threat)
        if arm is not None and ticket.round > arm.attack.victim_rounds[-1]:
            self._attack_live(ticket.run_id)  # rounds close one after another: no victim is to come

    def _attack_live(self, run_id: str) -> None:
        if run_id in self._arms and self._arms[run_id].attack.when == "live":
            self._attack(run_id)

    def _attack(self, run_id: str) -> None:
        """Attack one arm, unless that was done already, now or before a restart."""
        if run_id in self._attacked:
            return
        self._attacked.add(run_id)
        arm, folder = self._arms[run_id], self._folder(run_id)
        seen = [observation for _, observation in sorted(self._victims[run_id].items())]
        known = self._knowledge(run_id, arm.threat, seen)
        request = self._request(arm, seen, known)
        if request_behind(folder) == request:
            log.info("attacked before", extra={"run": run_id})
            return
        log.info("attacking", extra={"run": run_id, "victims": len(seen)})
        answers = self._answers(run_id, arm, seen, known, request=request)
        write_reconstructions(folder, answers, request=request)
        shutil.rmtree(self._portions(run_id), ignore_errors=True)
        n_failed = sum(1 for answer in answers if answer.failed)
        log.info("attacked", extra={"run": run_id, "victims": len(seen), "failed": n_failed})

    def _answers(
        self,
        run_id: str,
        arm: Arm,
        seen: Sequence[Observation],
        known: Sequence[Knowledge],
        *,
        request: str,
    ) -> Sequence[Reconstruction]:
        attack = build(ATTACKS, Choice(name=arm.attack.name, options=arm.attack.options))
        budget = Budget(restarts=arm.attack.restarts, iterations=arm.attack.iterations)
        progress = ProgressFile(
            self._folder(run_id) / "progress.jsonl", run_id=run_id, pulse=self._pulse
        )
        sums = round_sums(seen, known)
        refuse = partial(refusal, attack=arm.attack.name, budget=budget)

        def reconstruct(
            some: Sequence[Observation], told: Sequence[Knowledge], tell: Progress
        ) -> Sequence[Reconstruction]:
            try:
                _require(attack.requires, threat=arm.threat)
                rng = stream(self._seed, "attack")
                return attack.reconstruct(some, told, rng=rng, budget=budget, progress=tell)
            except (AttackError, KnowledgeError) as error:
                log.warning("cannot attack", extra={"run": run_id, "why": str(error)})
                return [refuse(o, why=str(error)) for o in some]

        found = in_portions(
            reconstruct,
            sums.seen,
            sums.known,
            restarts=budget.restarts,
            folder=self._portions(run_id),
            request=request,
            progress=progress,
        )
        answered = sums.spread(found, seen)
        answers = [
            answered[i] if i in answered else refuse(o, why=sums.failed[i])
            for i, o in enumerate(seen)
        ]
        answers = [
            replace(a, certificate={**a.certificate, **assumptions(o, arm.threat)})
            for a, o in zip(answers, seen, strict=True)
        ]
        lowest = [np.min(a.losses, initial=np.inf, where=np.isfinite(a.losses)) for a in answers]
        progress(budget.iterations, budget.iterations, np.array(lowest))
        return answers

    def _knowledge(
        self, run_id: str, threat: ThreatModel, seen: Sequence[Observation]
    ) -> list[Knowledge]:
        """What was told about each victim, and not more than the experiment grants."""
        if not set(threat.grants) & set(_GRANT_BEHIND.values()):
            return [Knowledge() for _ in seen]
        path = self._run.knowledge_file(run_id)
        if self._waits and not path.exists():
            log.info("waiting for granted knowledge", extra={"file": path})
            while not path.exists():
                self._pulse.beat()
                time.sleep(_POLL_S)
        told = read_knowledge(path)
        return [_told(told.get(observation.ticket, Knowledge()), threat) for observation in seen]

    def _request(self, arm: Arm, seen: Sequence[Observation], known: Sequence[Knowledge]) -> str:
        """Names everything that the answers follow from."""
        victims = [
            (observation.ticket, observation.sha256, _digest_of(told))
            for observation, told in zip(seen, known, strict=True)
        ]
        return digest((self._experiment_digest, arm.attack, victims))

    def _folder(self, run_id: str) -> Path:
        return self._out / run_id if self._out else self._run.attack(run_id)

    def _portions(self, run_id: str) -> Path:
        return self._folder(run_id) / "portions"


def _require(capabilities: Iterable[str], *, threat: ThreatModel) -> None:
    """Check what an attack says that it needs.

    Raises:
        KnowledgeError: the experiment does not grant it.
    """
    for capability in capabilities:
        if capability not in threat.grants:
            raise KnowledgeError(
                f"the attack needs {capability!r}, which the threat model does not grant"
            )


def _digest_of(told: Knowledge) -> str:
    """Names what was told, value for value."""
    hashed = hashlib.sha256()
    for field in fields(told):
        value = getattr(told, field.name)
        named = value if isinstance(value, Mapping) else {"": value}
        for name, array in sorted(named.items()):
            if array is not None:
                hashed.update(f"{field.name}/{name} {array.dtype} {array.shape} ".encode())
                hashed.update(array.tobytes())
    return hashed.hexdigest()


def _told(told: Knowledge, threat: ThreatModel) -> Knowledge:
    """The part of what was told that the experiment grants."""
    refused = {field for field, grant in _GRANT_BEHIND.items() if grant not in threat.grants}
    return replace(told, **dict.fromkeys(refused))
