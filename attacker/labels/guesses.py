"""Labels to search with, from the gradient and what was granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from attacker.labels import LABEL_ESTIMATORS
from attacker.labels.counts import label_guesses
from attacker.labels.readout import Readout, read
from attacker.labels.sign import label_candidates
from fedcore.errors import AttackError, KnowledgeError
from fedcore.nn.models.network import Network
from fedcore.types import Knowledge, Observation, TensorMap

__all__ = ["NEEDING_AUXILIARY_DATA", "Guesses", "guess_labels"]

NEEDING_AUXILIARY_DATA = ("auxiliary", "class-means")
"""Estimators that look at examples of the attacker's own."""

_N_GUESSES = 4
_OTHERWISE = "grant labels, or take attack 'dlg', which searches for them"


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """At the labels of one batch.

    Attributes:
        labels: multisets, int64 [example] each, the most trusted first.
        source: "granted", "rule" or the label estimator's name; "" for none.
        step_order: the local step of each label, where granted.
        knowledge: capabilities that were used.
        certificate: "labels by NAME" -> by how many labels the estimate was rounded. Far from 0
            the estimator's assumptions do not hold; near 0 proves nothing.
    """

    labels: tuple[np.ndarray, ...]
    source: str = ""
    step_order: np.ndarray | None = None
    knowledge: tuple[str, ...] = ()
    certificate: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def granted(cls, told: Knowledge) -> Guesses:
        """The true labels, with their steps where these are granted.

        Raises:
            KnowledgeError: the threat model does not grant labels.
        """
        used = ("labels",) if told.step_order is None else ("labels", "step_order")
        return cls(
            labels=(told.need("labels"),),
            source="granted",
            step_order=told.step_order,
            knowledge=used,
        )


def guess_labels(
    seen: Observation,
    told: Knowledge,
    *,
    source: str,
    gradient: TensorMap,
    n_examples: int,
    network: Network,
) -> Guesses:
    """Read labels from the gradient.

    Args:
        seen: the victim.
        told: may grant auxiliary data.
        source: a label estimator; "rule", iDLG's for one example; or "auto", which is the rule for
            one example and else the estimator that can do most with what is granted.
        gradient: by name.
        n_examples: behind it.
        network: that is attacked.

    Raises:
        KnowledgeError: the source needs what is not granted.
        AttackError: the gradient has not the form that the source reads.
    """
    if source in ("auto", "rule") and n_examples == 1:
        labels = tuple(np.array([label]) for label in label_candidates(gradient))
        return Guesses(labels=labels, source="rule")
    if source == "rule":
        raise KnowledgeError(
            f"the threat model does not grant 'labels', and iDLG's rule reads the label of one "
            f"example, not of the {n_examples} in {seen.ticket}; {_OTHERWISE}"
        )
    try:
        readout = read(seen, told, gradient=gradient, n_examples=n_examples, network=network)
        name = _best(readout) if source == "auto" else source
        estimate = LABEL_ESTIMATORS.get(name)(readout)
    except AttackError as error:
        raise AttackError(f"{error}; {_OTHERWISE}") from error
    labels, away = label_guesses(estimate, total=n_examples, n_guesses=_N_GUESSES)
    used = ("auxiliary_data",) if name in NEEDING_AUXILIARY_DATA else ()
    certificate = {f"labels by {name}": away}
    return Guesses(labels=labels, source=name, knowledge=used, certificate=certificate)


def _best(readout: Readout) -> str:
    """The estimator that can do most with a batch."""
    if readout.bias_slope is None:
        return "llg" if readout.auxiliary is None else "class-means"
    return "flat" if readout.auxiliary is None else "auxiliary"
