"""LPIPS, by piq, with weights that somebody has put there: nothing is downloaded."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.types import Missing
from testbed.metrics.base import DIVERGED, Metric, mean_of

__all__ = ["LPIPS", "lpips"]

_FILES = ("vgg16-397923af.pth", "lpips_weights.pt")
"""Of torchvision's VGG-16 and of piq's linear layers, by the names that torch keeps them under."""

_LEAST_SIDE = 16  # four times halved


def lpips(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Learned perceptual distance, averaged over the batch's images (0 is identical).

    Zhang et al. 2018 (arXiv 1801.03924), VGG-16 features, as the optional package piq has it.
    Grey images are shown to the network in three equal channels.
    """
    try:
        import piq  # noqa: F401  # asked for here, so that its absence has one message
        import torch
    except ModuleNotFoundError as error:
        needs = f"LPIPS needs {error.name}, which is not installed"
        return Missing(why=f"{needs}: pip install 'leakwatt[metrics]'")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if lacking := [name for name in _FILES if not (folder / name).is_file()]:
        return Missing(
            why=f"LPIPS needs {' and '.join(lacking)} in {folder}; Leakwatt downloads no weights"
        )
    shape = truth.shape[1:]
    if shape[0] not in (1, 3) or min(shape[1:]) < _LEAST_SIDE:
        sizes = " x ".join(str(n) for n in shape)
        return Missing(why=f"LPIPS is for 1 or 3 channels from 16 x 16 pixels; these are {sizes}")
    if not np.isfinite(guess).all():
        return DIVERGED
    images = [
        torch.from_numpy(np.clip(x, 0, 1).astype(np.float32)).expand(-1, 3, -1, -1)
        for x in (truth, guess)
    ]
    with torch.no_grad():
        return mean_of(_network()(*images).numpy())


@functools.cache
def _network() -> Any:
    """Loaded once."""
    import piq

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision's older names, which piq uses
        return piq.LPIPS(reduction="none")


LPIPS = Metric(
    score=lpips,
    label="LPIPS",
    unit="",
    of="inputs",
    higher_is_better=False,
    best=0.0,
    digits=3,
    applies_to="images",
)
