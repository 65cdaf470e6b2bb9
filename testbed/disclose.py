"""The one function that turns sealed truth into the attacker's granted knowledge.

What the threat model does not grant is never copied, so it cannot be in the file. Defence settings
are no data: the tap leaves them in the plan or empties them.
"""

from __future__ import annotations

import numpy as np

from fedcore.config import Arm, Experiment
from fedcore.data.shards import read_auxiliary
from fedcore.disclosure import write_knowledge
from fedcore.errors import RunError
from fedcore.ground_truth import JudgeKey, VictimRecord, open_record
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.types import Knowledge, ThreatModel, Ticket
from testbed.results import accepted_updates

__all__ = ["disclose", "granted"]


def disclose(run: RunFolder, private: PrivateFolder) -> None:
    """Write `knowledge/<run id>.npz` for every arm; nothing beyond its threat model is in it.

    Where the threat model grants nothing about victims, the vault is not even opened.

    Raises:
        RunError: the vault lacks a record that must be disclosed, or the key does not open it.
        ConfigError: auxiliary data are granted but there are none.
    """
    experiment = run.read_experiment()
    for arm in experiment.arms:
        _disclose_arm(experiment, arm, run=run, private=private)


def granted(
    record: VictimRecord | None,
    *,
    threat: ThreatModel,
    auxiliary: tuple[np.ndarray, np.ndarray] | None,
) -> Knowledge:
    """What a threat model lets the attacker know about one update.

    Args:
        record: the truth; needed only where labels or encoded input are granted.
        threat: of the arm.
        auxiliary: inputs and labels that no client holds.
    """
    inputs, labels = auxiliary if auxiliary and threat.auxiliary_data else (None, None)
    return Knowledge(
        labels=record.labels if record and threat.labels else None,
        encoded_input=record.encoded_input if record and threat.encoded_input else None,
        auxiliary_inputs=inputs,
        auxiliary_labels=labels,
    )


def _disclose_arm(
    experiment: Experiment, arm: Arm, *, run: RunFolder, private: PrivateFolder
) -> None:
    run_id, threat = experiment.run_id(arm), arm.threat
    auxiliary = read_auxiliary(private.auxiliary_file) if threat.auxiliary_data else None
    needs_truth = threat.labels or threat.encoded_input
    key = JudgeKey.read(private.judge_private) if needs_truth else None
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
        known[update.ticket] = granted(record, threat=threat, auxiliary=auxiliary)
    write_knowledge(run.knowledge_file(run_id), known)
