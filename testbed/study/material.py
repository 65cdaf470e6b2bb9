"""The examples of a study: what networks learn, what is attacked, and what anybody may know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.data.datasets import Examples, dataset_of
from fedcore.errors import ConfigError
from fedcore.seeds import stream
from fedcore.types import Missing
from testbed.baselines import Auxiliary
from testbed.study.design import DataSource

__all__ = ["Material", "load_material"]

_N_AUXILIARY = 1000
_SEED = 0  # of the split: networks of other seeds learn the same examples


@dataclass(frozen=True, kw_only=True)
class Material:
    """Three sets without a common example; the last two are held out from every network.

    Attributes:
        train: what networks learn.
        victims: to attack, in random order.
        auxiliary: behind baselines, and the pool in which a victim is looked for.
    """

    train: Examples
    victims: Examples
    auxiliary: Auxiliary

    def first(self, n: int) -> Examples:
        """So many held-out examples, or all that there are."""
        return self.victims.take(np.arange(min(n, len(self.victims))))

    def batches(self, n: int, *, size: int) -> list[Examples]:
        """The first victims in batches.

        Raises:
            ConfigError: there are not so many.
        """
        if n * size > len(self.victims):
            raise ConfigError(
                f"{n} batches of {size} need {n * size} held-out examples; "
                f"there are {len(self.victims)}"
            )
        return [self.victims.take(np.arange(i * size, (i + 1) * size)) for i in range(n)]


def load_material(source: DataSource, roots: Sequence[Path]) -> Material | Missing:
    """Read a data set from the first root that has it."""
    folders: Sequence[Path | None] = [root / source.folder for root in roots] or [None]
    why = ""
    for folder in folders:
        try:
            return _divided(source, folder)
        except ConfigError as error:
            why = str(error)
    return Missing(why=f"{why}; {source.how_to_get}" if source.how_to_get else why)


def _divided(source: DataSource, folder: Path | None) -> Material:
    dataset = dataset_of(source.dataset)
    if source.split == "published":
        train = dataset.load(folder, split="train")
        held_out = dataset.load(folder, split="test")
    else:
        examples = dataset.load(folder, split="all")
        is_held_out = _drawn(_groups(examples), share=1 / 3)
        train = examples.take(np.flatnonzero(~is_held_out))
        held_out = examples.take(np.flatnonzero(is_held_out))
    is_victim = _drawn(_groups(held_out), share=1 / 2)
    victims = held_out.take(np.flatnonzero(is_victim))
    others = held_out.take(np.flatnonzero(~is_victim)[:_N_AUXILIARY])
    attacked = {example.tobytes() for example in victims.inputs}
    kept = [i for i, example in enumerate(others.inputs) if example.tobytes() not in attacked]
    order = stream(_SEED, "victims").permutation(len(victims))
    return Material(
        train=train,
        victims=victims.take(order),
        auxiliary=Auxiliary(inputs=others.inputs[kept], labels=others.labels[kept]),
    )


def _groups(examples: Examples) -> np.ndarray:
    """Examples that stay together: a person's windows overlap."""
    return np.arange(len(examples)) if examples.subjects is None else examples.subjects


def _drawn(groups: np.ndarray, *, share: float) -> np.ndarray:
    """Mask of so many of the groups, one at least, drawn at random."""
    names = np.unique(groups)
    drawn = stream(_SEED, "held out", len(names)).permutation(names)
    return np.isin(groups, drawn[: max(1, round(share * len(names)))])
