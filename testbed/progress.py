"""How far a run is, read from what the services write; asking disturbs none of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.records import StoreReader, Tally
from fedcore.config import Arm, Experiment
from fedcore.layout import RunFolder
from fedcore.strict import to_table

__all__ = ["ArmProgress", "Progress", "read_progress"]

_NOTHING = Tally(n_rounds=0, n_updates=0, accuracy=None)


@dataclass(frozen=True, kw_only=True)
class ArmProgress:
    """One arm.

    Attributes:
        rounds: all, the closing evaluation included.
        closed: of them.
        accuracy: at the latest evaluated round, or None.
        updates: accepted so far.
        attack_iterations: all gradient evaluations of the attack.
        attack_done: of them.
        attack_loss: the attacker's own lowest mean objective, or None.
    """

    arm: str
    rounds: int
    closed: int
    accuracy: float | None
    updates: int
    attack_iterations: int
    attack_done: int
    attack_loss: float | None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run at one moment.

    Attributes:
        connected: clients that are there now.
        refused: updates and calls that admission refused so far.
        latest: the latest event, for people.
    """

    arms: tuple[ArmProgress, ...]
    connected: int
    refused: int
    latest: str

    @property
    def headline(self) -> str:
        """A few words."""
        for arm in self.arms:
            if arm.closed < arm.rounds:
                return f"arm {arm.arm}: round {arm.closed} of {arm.rounds}"
        for arm in self.arms:
            if arm.attack_done < arm.attack_iterations:
                return f"arm {arm.arm}: attack {arm.attack_done} of {arm.attack_iterations}"
        return "federation and attack over, no report yet"

    def as_table(self) -> Any:
        """For a script."""
        return to_table(self)

    def as_text(self) -> str:
        """One line per arm."""
        lines = [self.headline]
        for arm in self.arms:
            accuracy = "-" if arm.accuracy is None else f"{arm.accuracy:.3f}"
            lines.append(
                f"  {arm.arm}: rounds {arm.closed}/{arm.rounds}, accuracy {accuracy}, "
                f"updates {arm.updates}, attack {arm.attack_done}/{arm.attack_iterations}"
            )
        lines.append(
            f"  clients connected {self.connected}; refused {self.refused}; latest: {self.latest}"
        )
        return "\n".join(lines)


def read_progress(run: RunFolder) -> Progress:
    """Read the store and the attacker's progress file; what is not there yet counts as nothing.

    Raises:
        RunError: the store is there and cannot be read.
    """
    experiment = run.read_experiment()
    if not run.store_file.exists():
        arms = tuple(_arm(experiment, arm, run, None) for arm in experiment.arms)
        return Progress(arms=arms, connected=0, refused=0, latest="not started")
    with StoreReader(run.store_file) as store:
        return Progress(
            arms=tuple(_arm(experiment, arm, run, store) for arm in experiment.arms),
            connected=store.n_connected(),
            refused=store.n_refused(),
            latest=store.latest_event() or "started",
        )


def _arm(
    experiment: Experiment, arm: Arm, run: RunFolder, store: StoreReader | None
) -> ArmProgress:
    run_id = experiment.run_id(arm)
    attack = _last_line(run.attack(run_id) / "progress.jsonl")
    tally = store.tally(run_id) if store else _NOTHING
    return ArmProgress(
        arm=arm.name,
        rounds=arm.schedule.rounds + 1,
        closed=tally.n_rounds,
        accuracy=tally.accuracy,
        updates=tally.n_updates,
        attack_iterations=arm.attack.iterations,
        attack_done=attack.get("iteration", 0),
        attack_loss=attack.get("loss"),
    )


def _last_line(path: Path) -> dict[str, Any]:
    """The latest progress line; a line that is just being written is passed over."""
    if not path.exists():
        return {}
    for line in reversed(path.read_text().splitlines()):
        try:
            return dict(json.loads(line))
        except ValueError:
            continue
    return {}
