"""How near a guess comes to the truth. What cannot be scored is Missing, with its reason.

Batches are unordered for an attacker, so the judge calls `match` first: images are assigned to
victims by the smallest total squared error, and labels follow their images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedcore.registry import Registry
from fedcore.types import Missing

__all__ = [
    "LABEL_ACCURACY",
    "METRICS",
    "MSE",
    "PSNR",
    "SSIM",
    "Metric",
    "label_accuracy",
    "match",
    "mse",
    "psnr_db",
    "ssim",
    "ssim_window",
]

PSNR_CEILING_DB = 150.0
"""Errors below 1e-15 are the rounding of float32; beyond them decibels say nothing."""

_WANG_WINDOW = 11
_SMALL_WINDOW = 7


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One way to score, with what a reader needs beside the number.

    Attributes:
        score: `(truth, guess) -> value or Missing`; both [batch, channel, height, width] in
            [0, 1], or int64 [batch] where `of` is "labels".
        label: for people.
        unit: "" for a pure number.
        of: which part of a reconstruction is scored.
        higher_is_better: for the attacker.
        best: the score of a perfect guess.
        digits: decimals worth printing.
    """

    score: Callable[[np.ndarray, np.ndarray], float | Missing]
    label: str
    unit: str
    of: Literal["inputs", "labels"]
    higher_is_better: bool
    best: float
    digits: int

    def is_better(self, value: float, than: float) -> bool:
        """Whether one score is strictly better for the attacker than another."""
        return value > than if self.higher_is_better else value < than

    def label_for(self, shape: tuple[int, ...]) -> str:
        """The label, with the window that SSIM uses on images of a shape [channel, h, w]."""
        window = ssim_window(shape) if self.score is ssim else None
        return f"{self.label} (window {window})" if window else self.label


def match(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Which guessed example answers each true one.

    Args:
        truth: [batch, feature...].
        guess: finite, in the same shape.

    Returns:
        Indices into `guess`, int64 [batch], with the smallest total squared error (the linear
        assignment of Crouse 2016, doi:10.1109/TAES.2016.140952, as scipy ships it).
    """
    from scipy.optimize import linear_sum_assignment

    flat_truth, flat_guess = (x.reshape(len(x), -1).astype(np.float64) for x in (truth, guess))
    error = ((flat_truth[:, None] - flat_guess[None]) ** 2).mean(axis=2)
    order: np.ndarray = linear_sum_assignment(error)[1]
    return order


def mse(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Mean squared error over all values; lower is better."""
    return _mean(_errors(truth, guess))


def psnr_db(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Peak signal-to-noise ratio in dB for a peak of 1, averaged over the batch's images.

    10 log10(1 / MSE) per image; capped at `PSNR_CEILING_DB`.
    """
    errors = np.maximum(_errors(truth, guess), 10 ** (-PSNR_CEILING_DB / 10))
    return _mean(-10 * np.log10(errors))


def ssim_window(shape: tuple[int, ...]) -> int | None:
    """The window for images of a shape [channel, height, width]; None where there is no SSIM."""
    if len(shape) != 3 or min(shape[1:]) < _SMALL_WINDOW:
        return None
    return _WANG_WINDOW if min(shape[1:]) >= _WANG_WINDOW else _SMALL_WINDOW


def ssim(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Structural similarity, averaged over the batch's images (1 is identical).

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861): 11 x 11 Gaussian window, sigma 1.5. Images
    with a side below 11 pixels get a uniform window of 7 x 7; below 7 pixels there is no score.
    """
    from skimage.metrics import structural_similarity

    similarity: Callable[..., float] = structural_similarity
    window = ssim_window(truth.shape[1:])
    if window is None:
        shape = " x ".join(str(n) for n in truth.shape[1:])
        return Missing(why=f"SSIM needs images of at least 7 x 7 pixels; these are {shape}")
    if not np.isfinite(guess).all():
        return _DIVERGED
    gaussian = (
        {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        if window == _WANG_WINDOW
        else {}
    )
    values = [
        similarity(
            t.astype(np.float64),
            g.astype(np.float64),
            win_size=window,
            channel_axis=0,
            data_range=1.0,
            **gaussian,
        )
        for t, g in zip(truth, guess, strict=True)
    ]
    return float(np.mean(values))


def label_accuracy(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Share of right labels, int64 [batch] each."""
    return float(np.mean(truth == guess))


_DIVERGED = Missing(why="the reconstruction is not finite")


def _errors(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Mean squared error per example, float64 [batch]."""
    difference = truth.astype(np.float64) - guess.astype(np.float64)
    errors: np.ndarray = (difference.reshape(len(truth), -1) ** 2).mean(axis=1)
    return errors


def _mean(values: np.ndarray) -> float | Missing:
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else _DIVERGED


MSE = Metric(
    score=mse, label="MSE", unit="", of="inputs", higher_is_better=False, best=0.0, digits=4
)
PSNR = Metric(
    score=psnr_db,
    label="PSNR",
    unit="dB",
    of="inputs",
    higher_is_better=True,
    best=PSNR_CEILING_DB,
    digits=2,
)
SSIM = Metric(
    score=ssim, label="SSIM", unit="", of="inputs", higher_is_better=True, best=1.0, digits=3
)
LABEL_ACCURACY = Metric(
    score=label_accuracy,
    label="label accuracy",
    unit="",
    of="labels",
    higher_is_better=True,
    best=1.0,
    digits=2,
)

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "label-accuracy": "testbed.metrics:LABEL_ACCURACY",
        "mse": "testbed.metrics:MSE",
        "psnr": "testbed.metrics:PSNR",
        "ssim": "testbed.metrics:SSIM",
    },
)
