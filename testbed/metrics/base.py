"""What a metric is, and how an unordered answer is lined up with the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedcore.types import Missing

__all__ = ["DIVERGED", "Metric", "assign", "match", "mean_of"]

DIVERGED = Missing(why="the reconstruction is not finite")

_DIMENSIONS = {"images": 3, "series": 2}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One way to score, with what a reader needs beside the number.

    Attributes:
        score: `(truth, guess) -> value or Missing`. By `of`: "inputs" in [0, 1],
            [batch, feature...]; "labels" int64 [batch]; "trains" [time, batch, feature...];
            "identity" the examples' places in a pool, int64 [batch], and the guesses' distances
            to everything in it, [batch, pool]; "classes" the examples' classes, int64 [batch],
            and the guesses' distances to the nearest other example of each, [batch, class].
        label: for people.
        unit: "" for a pure number.
        of: which part of a reconstruction is scored.
        higher_is_better: for the attacker.
        best: the score of a perfect guess.
        digits: decimals worth printing.
        applies_to: "images" [channel, height, width], "series" [channel, time], or any input;
            elsewhere the score is Missing.
        needs_order: whether it compares when things happen; an answer that knows a train's frames
            and not their order has no such score.
        is_symmetric: whether truth and guess may be exchanged.
        note: what the label should add for inputs of a shape, or "".
    """

    score: Callable[[np.ndarray, np.ndarray], float | Missing]
    label: str
    unit: str
    of: Literal["inputs", "labels", "trains", "identity", "classes"]
    higher_is_better: bool
    best: float
    digits: int
    applies_to: Literal["any", "images", "series"] = "any"
    needs_order: bool = False
    is_symmetric: bool = True
    note: Callable[[tuple[int, ...]], str] = lambda _: ""

    def is_better(self, value: float, than: float) -> bool:
        """Whether one score is strictly better for the attacker than another."""
        return value > than if self.higher_is_better else value < than

    def label_for(self, shape: tuple[int, ...]) -> str:
        """The label for inputs of a shape, without the batch, e.g. with SSIM's window."""
        return f"{self.label}{self.note(shape)}"

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Whether inputs of a shape, without the batch, are of the kind that it is made for."""
        return self.applies_to == "any" or len(shape) == _DIMENSIONS[self.applies_to]

    def of_pair(self, truth: np.ndarray, guess: np.ndarray) -> float | Missing:
        """The score, or why there is none for such inputs."""
        if self.of == "inputs" and not self.suits(truth.shape[1:]):
            shape = " x ".join(str(n) for n in truth.shape[1:])
            return Missing(why=f"{self.label} is for {self.applies_to}; these are {shape}")
        return self.score(truth, guess)


def match(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Which guessed example answers each true one.

    Args:
        truth: [batch, feature...].
        guess: finite, in the same shape.

    Returns:
        Indices into `guess`, int64 [batch], with the smallest total squared error.
    """
    flat_truth, flat_guess = (x.reshape(len(x), -1).astype(np.float64) for x in (truth, guess))
    return assign(((flat_truth[:, None] - flat_guess[None]) ** 2).mean(axis=2))


def assign(cost: np.ndarray) -> np.ndarray:
    """The column of each row in the assignment of smallest total cost, int64 [row].

    The linear assignment of Crouse 2016, doi:10.1109/TAES.2016.140952, as scipy ships it.
    """
    from scipy.optimize import linear_sum_assignment

    order: np.ndarray = linear_sum_assignment(cost)[1]
    return order


def mean_of(values: np.ndarray) -> float | Missing:
    """The mean, or that something in it diverged."""
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else DIVERGED
