"""What the variables of a search stand for: the candidate itself, or the weights that draw it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from attacker.inputs import InputView

__all__ = ["Plain", "Searched"]


class Searched(Protocol):
    """Takes the variables of a row, [variable], to a candidate and to the logits of its labels."""

    @property
    def n_variables(self) -> int:
        """Of a row."""

    def begin(self, draws: Tensor) -> Tensor:
        """Where searches begin, [row, variable], of random numbers of that shape."""

    def candidate(self, row: Tensor) -> Tensor:
        """In the shape of the view, differentiable."""

    def logits(self, row: Tensor) -> Tensor:
        """Of the labels, [example, class], where they are searched for."""

    def within_range(self, rows: Tensor) -> Tensor:
        """The nearest variables whose candidates an input could be, [row, variable]."""


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The candidate, flattened, and behind it the logits of its labels if they are searched for.

    Attributes:
        view: what a candidate is.
        label_shape: of the logits, [example, class]; none where labels are known.
    """

    view: InputView
    label_shape: tuple[int, ...] = ()

    @property
    def n_variables(self) -> int:
        """Pixels and logits."""
        return self._n_pixels + (prod(self.label_shape) if self.label_shape else 0)

    def begin(self, draws: Tensor) -> Tensor:
        """The random numbers themselves."""
        return draws

    def candidate(self, row: Tensor) -> Tensor:
        """The row's first part."""
        return row[: self._n_pixels].reshape(self.view.shape)

    def logits(self, row: Tensor) -> Tensor:
        """The row's second part."""
        return row[self._n_pixels :].reshape(self.label_shape)

    def within_range(self, rows: Tensor) -> Tensor:
        """Pixels cut to their range."""
        pixels = rows[:, : self._n_pixels].clamp(self.view.low, self.view.high)
        return torch.cat([pixels, rows[:, self._n_pixels :]], dim=1)

    @property
    def _n_pixels(self) -> int:
        return prod(self.view.shape)
