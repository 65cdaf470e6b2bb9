"""Secure aggregation from the attacker's side: the updates of a round are one victim, their sum.

A masked update by itself is noise. All of a round add up to what the aggregator folds: the mean
gradient of all clients, which is the gradient of one batch that holds the examples of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from attacker.gradients import batch_size_of
from fedcore.defences.base import chain
from fedcore.errors import RunError
from fedcore.plan import Choice
from fedcore.types import Knowledge, Observation, Reconstruction, TensorMap

__all__ = ["RoundSums", "round_sums"]

_NAME = "secure-aggregation"
_LIKELY_MASK = 1 << 20  # the largest of so many uniform numbers below 2^24 lies far above it


@dataclass(frozen=True, kw_only=True)
class RoundSums:
    """Victims as they can be attacked: those without masks, and the sum of each masked round.

    Attributes:
        seen: the victims.
        known: what was told about each; of a sum, about all its clients together.
        members: indices into the original victims behind each.
        failed: by index of an original victim, why it is in no sum.
    """

    seen: list[Observation]
    known: list[Knowledge]
    members: list[list[int]]
    failed: dict[int, str]

    def spread(
        self, answers: Sequence[Reconstruction], original: Sequence[Observation]
    ) -> dict[int, Reconstruction]:
        """The answer on a sum is the answer on each client behind it, by original index.

        It has candidates for the examples of all of them, and does not say whose is which.
        """
        return {
            i: replace(
                answer,
                ticket=original[i].ticket,
                sha256=original[i].sha256,
                duration_s=answer.duration_s / len(behind),
            )
            for answer, behind in zip(answers, self.members, strict=True)
            for i in behind
        }


def round_sums(seen: Sequence[Observation], known: Sequence[Knowledge]) -> RoundSums:
    """Sum up the masked updates of each round.

    Args:
        seen: victims, of one run each round's clients all together.
        known: what was told about each.
    """
    sums = RoundSums(seen=[], known=[], members=[], failed={})
    rounds: dict[tuple[str, int], list[int]] = {}
    for i, one in enumerate(seen):
        if _is_masked(one):
            rounds.setdefault((one.ticket.run_id, one.ticket.round), []).append(i)
        else:
            _add(sums, one, known[i], [i])
    for behind in rounds.values():
        clients = [seen[i] for i in behind]
        if clients[0].plan.training.local_steps > 1:
            why = "the local steps of several clients lie in one sum; no attack tells them apart"
            sums.failed.update(dict.fromkeys(behind, why))
            continue
        try:
            shares = [client.n_examples for client in clients]
            told = _together([known[i] for i in behind], shares=shares)
            _add(sums, _sum(clients), told, behind)
        except RunError as error:
            sums.failed.update(
                dict.fromkeys(behind, f"only the sum could be attacked, and {error}")
            )
    return sums


def _add(sums: RoundSums, one: Observation, told: Knowledge, behind: list[int]) -> None:
    sums.seen.append(one)
    sums.known.append(told)
    sums.members.append(behind)


def _is_masked(seen: Observation) -> bool:
    """By the plan where it shows defences, else by the values: large whole numbers only."""
    if seen.plan.defences:
        return any(defence.name == _NAME for defence in seen.plan.defences)
    largest = max((float(t.max()) for t in seen.tensors.values() if t.size), default=0.0)
    return largest >= _LIKELY_MASK and all(
        (t >= 0).all() and (t == np.rint(t)).all() for t in seen.tensors.values()
    )


def _sum(clients: Sequence[Observation]) -> Observation:
    """The victim whose batch holds the examples of all, named after the first client.

    Where the plan does not show the defence's options, its defaults are assumed.

    Raises:
        RunError: the masks do not cancel.
    """
    first = clients[0]
    shown = [d for d in first.plan.defences if d.name == _NAME] or [Choice(name=_NAME)]
    batch_size = sum(batch_size_of(client) for client in clients)
    return replace(
        first,
        plan=replace(
            first.plan,
            defences=tuple(d for d in first.plan.defences if d.name != _NAME),
            training=replace(first.plan.training, batch_size=batch_size),
        ),
        tensors=next(chain(shown).aggregate(client.tensors for client in clients)),
        n_examples=sum(client.n_examples for client in clients),
    )


def _together(told: Sequence[Knowledge], *, shares: Sequence[int]) -> Knowledge:
    """What is known about the examples of all clients, without saying whose they are.

    Labels have no step order: a sum that is attacked has one step.

    Args:
        told: about each client.
        shares: how many examples each has.
    """
    all_labels = [t.labels for t in told if t.labels is not None]
    all_trains = [t.encoded_input for t in told if t.encoded_input is not None]
    labels = np.concatenate(all_labels) if all_labels else None
    trains = np.concatenate(all_trains, axis=1) if all_trains else None
    if labels is not None:
        order = np.argsort(labels, kind="stable")
        labels, trains = labels[order], None if trains is None else trains[:, order]
    return Knowledge(
        labels=labels,
        encoded_input=trains,
        batch_statistics=_pooled([t.batch_statistics for t in told], shares=shares),
        auxiliary_inputs=told[0].auxiliary_inputs,
        auxiliary_labels=told[0].auxiliary_labels,
    )


def _pooled(told: Sequence[TensorMap | None], *, shares: Sequence[int]) -> TensorMap | None:
    """Mean and variance of each channel over the examples of all clients; None where not granted.

    The variance within clients, and that of their means: exact.
    """
    granted = [statistics for statistics in told if statistics is not None]
    if len(granted) < len(told):
        return None
    average = partial(np.average, axis=0, weights=shares)
    pooled: dict[str, np.ndarray] = {}
    for layer in (name.removesuffix(".mean") for name in granted[0] if name.endswith(".mean")):
        means = np.stack([one[f"{layer}.mean"] for one in granted])
        within = np.stack([one[f"{layer}.variance"] for one in granted])
        mean = average(means)
        pooled[f"{layer}.mean"] = mean.astype(np.float32)
        pooled[f"{layer}.variance"] = average(within + (means - mean) ** 2).astype(np.float32)
    return pooled
