"""The one function that turns sealed truth into the attacker's granted knowledge.

What the threat model does not grant is never copied, so it cannot be in the file. Examples come in
an order that follows from what is granted, so that their order tells nothing more. What the plan
and the update hold is no matter of this file: see `ThreatModel.shown` and `attacker.observations`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from attacker.observations import Seen
from attacker.replay import replay
from fedcore.config import Arm, Experiment
from fedcore.data.shards import read_auxiliary
from fedcore.disclosure import write_knowledge
from fedcore.errors import RunError
from fedcore.ground_truth import JudgeKey, VictimRecord, open_record
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.types import Knowledge, Observation, TensorMap, ThreatModel, Ticket
from testbed.results import accepted_updates

__all__ = ["Disclosure", "disclose", "granted"]


@dataclass(frozen=True, kw_only=True)
class Disclosure:
    """What was handed over about one arm.

    Attributes:
        arm: its name.
        n_victims: updates that the file knows.
        fields: of `Knowledge` that are in it.
        file: where it lies.
    """

    arm: str
    n_victims: int
    fields: tuple[str, ...]
    file: str

    @property
    def text(self) -> str:
        """For people, in one line."""
        told = ", ".join(self.fields) or "nothing, as granted"
        return f"{self.arm}: {told}, about {self.n_victims} victims, in {self.file}"


def disclose(run: RunFolder, private: PrivateFolder) -> tuple[Disclosure, ...]:
    """Write `knowledge/<run id>.npz` for every arm; nothing beyond its threat model is in it.

    Where the threat model grants nothing about victims, the vault is not even opened.

    Raises:
        RunError: the vault lacks a record that must be disclosed, or the key does not open it.
        ConfigError: auxiliary data are granted but there are none.
    """
    experiment = run.read_experiment()
    return tuple(
        _disclose_arm(experiment, arm, run=run, private=private) for arm in experiment.arms
    )


def granted(
    record: VictimRecord | None,
    *,
    threat: ThreatModel,
    auxiliary: tuple[np.ndarray, np.ndarray] | None,
    seen: Observation | None = None,
) -> Knowledge:
    """What a threat model lets the attacker know about one update.

    Args:
        record: the truth; needed only where something of the batch is granted.
        threat: of the arm.
        auxiliary: inputs and labels that no client holds.
        seen: the update, with its plan as the client got it; needed only where batch statistics
            are granted.
    """
    inputs, labels = auxiliary if auxiliary and threat.auxiliary_data else (None, None)
    told = Knowledge() if record is None else _of_batch(record, threat)
    return replace(
        told,
        batch_statistics=_statistics(record, seen)
        if record and seen and threat.batch_statistics
        else None,
        auxiliary_inputs=inputs,
        auxiliary_labels=labels,
    )


def _of_batch(record: VictimRecord, threat: ThreatModel) -> Knowledge:
    """What is granted of one batch: step after step if so, by label if so, and then by content."""
    steps = np.repeat(np.arange(len(record.batch_sizes)), record.batch_sizes)

    def granted_part(i: int) -> tuple[int, int, bytes]:
        return (
            int(steps[i]) if threat.step_order else 0,
            int(record.labels[i]) if threat.labels else 0,
            record.encoded_input[:, i].tobytes() if threat.encoded_input else b"",
        )

    order = sorted(range(len(steps)), key=granted_part)
    return Knowledge(
        labels=record.labels[order] if threat.labels else None,
        step_order=steps[order] if threat.step_order else None,
        encoded_input=record.encoded_input[:, order] if threat.encoded_input else None,
    )


def _statistics(record: VictimRecord, seen: Observation) -> TensorMap:
    """Of the whole batch at the round's weights, whatever the order of its examples."""
    from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # needs torch
    from fedcore.nn.functional import batch_statistics
    from fedcore.nn.models import build

    train = record.encoded_input
    order = sorted(range(train.shape[1]), key=lambda i: train[:, i].tobytes())
    inputs = to_tensor(train[:, order]).float()
    return to_arrays(batch_statistics(build(seen.plan.model), to_tensors(seen.weights), inputs))


def _disclose_arm(
    experiment: Experiment, arm: Arm, *, run: RunFolder, private: PrivateFolder
) -> Disclosure:
    run_id, threat = experiment.run_id(arm), arm.threat
    auxiliary = read_auxiliary(private.auxiliary_file) if threat.auxiliary_data else None
    needs_truth = threat.labels or threat.encoded_input or threat.batch_statistics
    key = JudgeKey.read(private.judge_private) if needs_truth else None
    seen = _seen(experiment, arm, run=run) if threat.batch_statistics else {}
    known: dict[Ticket, Knowledge] = {}
    for update in accepted_updates(run, run_id):
        if update.ticket.round not in arm.attack.victim_rounds:
            continue
        record = None
        if key is not None:
            path = run.sealed_file(update.ticket, update.sha256)
            try:
                record = open_record(path.read_bytes(), key=key)
            except OSError as error:
                raise RunError(f"{path}: cannot be disclosed ({error.strerror})") from error
        known[update.ticket] = granted(
            record, threat=threat, auxiliary=auxiliary, seen=seen.get(update.ticket)
        )
    file = run.knowledge_file(run_id)
    write_knowledge(file, known)
    told = [
        field.name
        for field in fields(Knowledge)
        if any(getattr(one, field.name) is not None for one in known.values())
    ]
    return Disclosure(arm=arm.name, n_victims=len(known), fields=tuple(told), file=str(file))


def _seen(experiment: Experiment, arm: Arm, *, run: RunFolder) -> dict[Ticket, Observation]:
    """The victims' updates with their plans as the clients got them."""
    run_id, rounds = experiment.run_id(arm), arm.attack.victim_rounds
    events = replay(
        run, experiment, wants=lambda t: t.run_id == run_id and t.round in rounds, as_sent=True
    )
    return {e.ticket: e.observation for e in events if isinstance(e, Seen) and e.observation}
