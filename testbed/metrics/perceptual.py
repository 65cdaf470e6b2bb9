"""FSIM and HaarPSI, as the optional package piq computes them; Missing where it is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedcore.types import Missing
from testbed.metrics.base import DIVERGED, Metric, mean_of

__all__ = ["FSIM", "HAARPSI", "fsim", "haarpsi"]

_HAAR_SIDE = 16  # the largest of its filters has 8 pixels, on images of half the side


def fsim(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Feature similarity of the luminance, averaged over the batch's images (1 is identical).

    Zhang et al. 2011 (doi:10.1109/TIP.2011.2109730), phase congruency and gradient magnitude.
    """
    return _by_piq("FSIM", lambda piq: piq.fsim, truth, guess, chromatic=False)


def haarpsi(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Haar wavelet perceptual similarity, averaged over the batch's images (1 is identical).

    Reisenhofer et al. 2018 (doi:10.1016/j.image.2017.11.001).
    """
    if min(truth.shape[2:]) < _HAAR_SIDE:
        shape = " x ".join(str(n) for n in truth.shape[1:])
        return Missing(why=f"HaarPSI needs images of at least 16 x 16 pixels; these are {shape}")
    return _by_piq("HaarPSI", lambda piq: piq.haarpsi, truth, guess)


def _by_piq(
    name: str,
    score: Callable[[Any], Callable[..., Any]],
    truth: np.ndarray,
    guess: np.ndarray,
    **options: bool,
) -> float | Missing:
    try:
        import piq
        import torch
    except ModuleNotFoundError as error:
        needs = f"{name} needs {error.name}, which is not installed"
        return Missing(why=f"{needs}: pip install 'leakwatt[metrics]'")
    if truth.shape[1] not in (1, 3):
        return Missing(why=f"{name} is for 1 or 3 channels; these images have {truth.shape[1]}")
    if not np.isfinite(guess).all():
        return DIVERGED
    images = [torch.from_numpy(np.clip(x, 0, 1).astype(np.float64)) for x in (truth, guess)]
    return mean_of(score(piq)(*images, data_range=1.0, reduction="none", **options).numpy())


FSIM = Metric(
    score=fsim,
    label="FSIM",
    unit="",
    of="inputs",
    higher_is_better=True,
    best=1.0,
    digits=3,
    applies_to="images",
)
HAARPSI = Metric(
    score=haarpsi,
    label="HaarPSI",
    unit="",
    of="inputs",
    higher_is_better=True,
    best=1.0,
    digits=3,
    applies_to="images",
)
