"""Exposure of a whole run: every accepted update, with the truth where the judge's key is.

Updates under secure aggregation are looked at as the attacker does: all clients of a round show
what their sum shows, and nobody's Jacobian is taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from attacker.observations import Seen
from attacker.replay import replay
from attacker.secure_sums import round_sums
from fedcore.defences.base import chain
from fedcore.layout import PrivateFolder, RunFolder
from fedcore.seeds import stream
from fedcore.types import Knowledge, Missing, Observation
from testbed.exposure import Exposure, Exposures, of_update, write_exposures
from testbed.judge import SealedTruths
from testbed.mechanism import Mechanism, mechanism_of

__all__ = ["N_DIRECTIONS", "expose"]

N_DIRECTIONS = 64
"""Input values that the Jacobian is taken in: enough for a spectrum, cheap for every round."""


def expose(
    run: RunFolder,
    private: PrivateFolder | None,
    *,
    sigma: float | None = None,
    n_directions: int = N_DIRECTIONS,
    every_round: bool = False,
) -> tuple[Exposures, ...]:
    """Score every accepted update of every arm and write the files beside the judge's scores.

    Args:
        run: its folder.
        private: with the judge's key; None looks at the bytes alone.
        sigma: of Gaussian noise on the update, instead of what the arm's defences add.
        n_directions: input values that the Jacobian is taken in.
        every_round: take the Jacobian of every update, not only in the attack's victim rounds.

    Raises:
        RunError: the run has no store, a file of it was altered, or the key is another's.
    """
    experiment = run.read_experiment()
    arms = {experiment.run_id(arm): arm for arm in experiment.arms}
    truths = SealedTruths.open(run, private) if private else None
    rows: dict[str, list[Exposure]] = {run_id: [] for run_id in arms}
    masked: list[Observation] = []
    for event in replay(run, experiment, wants=lambda _: True, as_sent=True):
        if not isinstance(event, Seen) or event.observation is None:
            continue
        arm = arms[event.ticket.run_id]
        if "hidden" in chain(arm.defences).hooks:
            masked.append(event.observation)
            continue
        start_s = time.perf_counter()
        row = of_update(event.observation)
        if truths is not None and (every_round or event.ticket.round in arm.attack.victim_rounds):
            asked = Mechanism(names=("gaussian",), sigma=sigma) if sigma else None
            row = _with_truth(
                row,
                event.observation,
                truths,
                asked or mechanism_of(arm.defences),
                seed=experiment.seed,
                n=n_directions,
            )
        rows[event.ticket.run_id].append(replace(row, duration_s=time.perf_counter() - start_s))
    for row in _of_sums(masked):
        rows[row.ticket.run_id].append(row)
    found = tuple(
        Exposures(
            run_id=run_id,
            arm=arm.name,
            rows=tuple(sorted(rows[run_id], key=lambda row: row.ticket)),
        )
        for run_id, arm in arms.items()
    )
    for exposures in found:
        write_exposures(exposures, run)
    return found


def _of_sums(masked: Sequence[Observation]) -> Iterator[Exposure]:
    """One row for each client of a round, all from the round's sum."""
    sums = round_sums(masked, [Knowledge()] * len(masked))
    for whole, behind in zip(sums.seen, sums.members, strict=True):
        start_s = time.perf_counter()
        row = _without(of_update(whole), Missing(why="only the sum of a round is open"))
        duration_s = (time.perf_counter() - start_s) / len(behind)
        for i in behind:
            yield replace(row, ticket=masked[i].ticket, duration_s=duration_s)


def _with_truth(
    row: Exposure,
    seen: Observation,
    truths: SealedTruths,
    mechanism: Mechanism | Missing,
    *,
    seed: int,
    n: int,
) -> Exposure:
    """The row with what only the judge can add."""
    from testbed.jacobian import input_spectrum  # needs torch

    truth = truths.of(seen.ticket, seen.sha256)
    spectrum = (
        truth
        if isinstance(truth, Missing)
        else input_spectrum(
            seen.plan,
            seen.weights,
            inputs=truth.inputs,
            encoded_input=truth.encoded_input,
            labels=truth.labels,
            n_directions=n,
            rng=stream(seed, "exposure", seen.ticket.round, seen.ticket.client_id),
            mechanism=mechanism,
        )
    )
    if isinstance(spectrum, Missing):
        return _without(row, spectrum)
    values, inverse, bound = spectrum.singular_values, spectrum.inverse_information, spectrum.bound
    return replace(
        row,
        jacobian_of=spectrum.of,
        n_inputs=spectrum.n_inputs,
        n_directions=len(values),
        effective_rank=spectrum.effective_rank,
        largest=float(values[0]),
        median=float(np.median(values)),
        smallest=float(values[-1]),
        bound_factor=inverse if isinstance(inverse, Missing) else float(inverse.mean()),
        drawn_by=mechanism if isinstance(mechanism, Missing) else " + ".join(mechanism.names),
        sigma=_sigma(mechanism),
        information=bound if isinstance(bound, Missing) else bound.information,
        crb_mse=bound if isinstance(bound, Missing) else float(bound.least_mse.mean()),
        crb_mse_best=bound if isinstance(bound, Missing) else float(bound.least_mse.min()),
    )


def _sigma(mechanism: Mechanism | Missing) -> float | Missing:
    if isinstance(mechanism, Missing):
        return mechanism
    return mechanism.sigma or Missing(why="rounding has no one standard deviation")


def _without(row: Exposure, why: Missing) -> Exposure:
    """The row with the reason why the truth added nothing."""
    missing: dict[str, Any] = {
        field.name: why for field in fields(row) if isinstance(field.default, Missing)
    }
    return replace(row, **missing)
