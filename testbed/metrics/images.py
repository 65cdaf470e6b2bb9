"""Scores of raw inputs and of images: errors, structure, gradients, spectra."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedcore.types import Missing
from testbed.metrics.base import DIVERGED, Metric, mean_of

__all__ = [
    "FFT2D",
    "GMSD",
    "MSE",
    "PSNR",
    "PSNR_CEILING_DB",
    "SSIM",
    "fft2d",
    "gmsd",
    "mse",
    "psnr_db",
    "ssim",
    "ssim_window",
]

PSNR_CEILING_DB = 150.0
"""Errors below 1e-15 are the rounding of float32; beyond them decibels say nothing."""

_WANG_WINDOW = 11
_SMALL_WINDOW = 7
_GMSD_SIDE = 6  # halved, three pixels are left: with fewer no gradient has all its neighbours
_GMSD_CONSTANT = 170 / 255**2
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def mse(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Mean squared error over all values; lower is better."""
    return mean_of(_errors(truth, guess))


def psnr_db(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Peak signal-to-noise ratio in dB for a peak of 1, averaged over the batch's images.

    10 log10(1 / MSE) per image; capped at `PSNR_CEILING_DB`.
    """
    errors = np.maximum(_errors(truth, guess), 10 ** (-PSNR_CEILING_DB / 10))
    return mean_of(-10 * np.log10(errors))


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
        return DIVERGED
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


def gmsd(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Gradient magnitude similarity deviation, averaged over the batch's images (0 is identical).

    Xue et al. 2014 (doi:10.1109/TIP.2013.2293423): Prewitt gradients of the luminance, halved by
    averaging, zero outside, and their similarity's standard deviation, with the constant
    170 / 255^2.
    """
    if min(truth.shape[2:]) < _GMSD_SIDE:
        shape = " x ".join(str(n) for n in truth.shape[1:])
        return Missing(why=f"GMSD needs images of at least 6 x 6 pixels; these are {shape}")
    first, second = (_gradient_magnitude(_halved(_luminance(x))) for x in (truth, guess))
    similarity = (2 * first * second + _GMSD_CONSTANT) / (first**2 + second**2 + _GMSD_CONSTANT)
    return mean_of(similarity.std(axis=(1, 2)))


def fft2d(truth: np.ndarray, guess: np.ndarray) -> float | Missing:
    """Mean absolute difference of the magnitudes of the 2-D Fourier transforms (0 is identical).

    Unitary transforms, so that the value does not grow with the image; blind to where things
    are, since a (circular) shift changes phases alone. Used beside GradInversion (Yin et al. 2021).
    """
    spectra = [
        np.abs(np.fft.fft2(x.astype(np.float64), axes=(-2, -1), norm="ortho"))
        for x in (truth, guess)
    ]
    return mean_of(np.abs(spectra[0] - spectra[1]))


def _errors(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Mean squared error per example, float64 [batch]."""
    difference = truth.astype(np.float64) - guess.astype(np.float64)
    errors: np.ndarray = (difference.reshape(len(truth), -1) ** 2).mean(axis=1)
    return errors


def _luminance(images: np.ndarray) -> np.ndarray:
    """[batch, channel, height, width] -> [batch, height, width]: of RGB, or the channels' mean."""
    if images.shape[1] == 3:
        luminance: np.ndarray = np.einsum("bchw,c->bhw", images.astype(np.float64), _LUMINANCE)
        return luminance
    mean: np.ndarray = images.astype(np.float64).mean(axis=1)
    return mean


def _halved(images: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 blocks; an odd last row or column is left out."""
    height, width = (n // 2 for n in images.shape[1:])
    blocks = images[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2)
    means: np.ndarray = blocks.mean(axis=(2, 4))
    return means


def _gradient_magnitude(images: np.ndarray) -> np.ndarray:
    """Prewitt's gradient, zero outside the images, [batch, height, width]."""
    images = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    across = (images[:, :, 2:] - images[:, :, :-2]) / 3
    down = (images[:, 2:] - images[:, :-2]) / 3
    across = across[:, :-2] + across[:, 1:-1] + across[:, 2:]
    down = down[:, :, :-2] + down[:, :, 1:-1] + down[:, :, 2:]
    magnitude: np.ndarray = np.hypot(across, down)
    return magnitude


def _window_note(shape: tuple[int, ...]) -> str:
    window = ssim_window(shape)
    return f" (window {window})" if window else ""


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
    score=ssim,
    label="SSIM",
    unit="",
    of="inputs",
    higher_is_better=True,
    best=1.0,
    digits=3,
    applies_to="images",
    note=_window_note,
)
GMSD = Metric(
    score=gmsd,
    label="GMSD",
    unit="",
    of="inputs",
    higher_is_better=False,
    best=0.0,
    digits=3,
    applies_to="images",
)
FFT2D = Metric(
    score=fft2d,
    label="FFT2D",
    unit="",
    of="inputs",
    higher_is_better=False,
    best=0.0,
    digits=4,
    applies_to="images",
)
