"""Gradient inversion by a generator whose structure is searched, too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from attacker.attacks.base import Budget, NetworkOf, Progress
from attacker.attacks.deep_prior import DeepPrior
from attacker.attacks.matching import Case
from attacker.batch import Batch
from attacker.generators.base import Canvas, Generated
from attacker.generators.structure import random_structure
from attacker.inputs import InputView
from fedcore.errors import ConfigError
from fedcore.seeds import stream
from fedcore.types import Reconstruction

__all__ = ["StructureSearch"]


@dataclass(frozen=True, kw_only=True)
class StructureSearch(DeepPrior):
    """GI-NAS of Yu et al. 2025 (arXiv 2405.20725): the hourglass that fits best before any step.

    Hourglasses are drawn at random from a space of upsamplings, convolutions and skips across
    levels. A victim gets the one whose own loss, at the starts of its restarts, is the lowest on
    average, and is searched from these starts. The authors' code draws 5,000 and takes 30,000
    steps.

    Attributes:
        candidates: structures to choose from; trying one costs less than a step.
    """

    name: ClassVar[str] = "gi-nas"

    candidates: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise ConfigError(f"candidates must be >= 1; got {self.candidates}")

    def generators(self, view: InputView, *, seed: int) -> list[Generated]:
        """The candidates; more of them begin with the same ones."""
        canvas = Canvas(view=view)
        n_levels, n_spatial = self._n_levels(canvas), canvas.n_spatial
        structures = (
            random_structure(
                stream(seed, "structure", number), n_levels=n_levels, n_spatial=n_spatial
            )
            for number in range(self.candidates)
        )
        return [self._hourglass(canvas, structure, seed=seed) for structure in structures]

    def _search(
        self,
        cases: Sequence[Case],
        *,
        seed: int,
        budget: Budget,
        tell: Progress,
        network_of: NetworkOf,
    ) -> list[Reconstruction]:
        """Victims that got the same structure share a search."""
        started_ns = time.monotonic_ns()
        view = self.view(cases[0].seen.plan, n_inputs=cases[0].steps.n_inputs)
        batch_of = partial(self._batch, view=view, seed=seed, budget=budget, network_of=network_of)
        generators = self.generators(view, seed=seed)
        losses = np.stack(
            [self._first_losses(batch_of(cases, searched=g), seed=seed) for g in generators]
        )
        best = losses.argmin(axis=0)
        choice_s = (time.monotonic_ns() - started_ns) * 1e-9 / len(cases)
        chosen = np.unique(best)
        progress = _InTurn(tell, losses.min(axis=0), n_searches=len(chosen))
        answers: dict[int, Reconstruction] = {}
        for number in chosen:
            members = np.flatnonzero(best == number)
            group = [cases[int(i)] for i in members]
            batch = batch_of(group, searched=generators[number])
            told = partial(progress.note, members)
            found = self._solve(group, batch, view, seed=seed, budget=budget, tell=told)
            answers |= dict(zip(members, found, strict=True))
        return [
            replace(
                answers[i],
                duration_s=answers[i].duration_s + choice_s,
                certificate={
                    **answers[i].certificate,
                    "structure": float(best[i]),
                    "loss before any step": float(losses[best[i], i]),
                },
            )
            for i in range(len(cases))
        ]

    def _first_losses(self, batch: Batch, *, seed: int) -> np.ndarray:
        """Mean of a victim's restarts before any step, [victim]; infinite where one has none."""
        losses = batch.by_victim(batch.losses(batch.starts(self.start, seed=seed))).mean(axis=1)
        return np.where(np.isfinite(losses), losses, np.inf)


class _InTurn:
    """Progress of searches that follow one another, told as that of one.

    Args:
        tell: told when all have made as many steps, on average, as one.
        lowest: own loss of each victim.
        n_searches: of equal length.
    """

    def __init__(self, tell: Progress, lowest: np.ndarray, *, n_searches: int) -> None:
        self._tell = tell
        self._lowest = lowest
        self._n_searches = n_searches
        self._n_steps = 0

    def note(self, members: np.ndarray, n: int, total: int, losses: np.ndarray) -> None:
        """One step of the search that has these victims."""
        del n
        self._lowest[members] = losses
        self._n_steps += 1
        if self._n_steps % self._n_searches == 0:
            self._tell(self._n_steps // self._n_searches, total, self._lowest.copy())
