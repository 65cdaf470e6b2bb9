"""How near a guess comes to the truth. What cannot be scored is Missing, with its reason.

Batches are unordered for an attacker, so the judge calls `match` first: images are assigned to
victims by the smallest total squared error, and labels follow their images.
"""

from __future__ import annotations

from fedcore.registry import Registry
from testbed.metrics.base import Metric, match
from testbed.metrics.identity import label_accuracy
from testbed.metrics.images import PSNR_CEILING_DB, SSIM, mse, psnr_db, ssim
from testbed.metrics.trains import match_frames

__all__ = [
    "METRICS",
    "PSNR_CEILING_DB",
    "SSIM",
    "Metric",
    "label_accuracy",
    "match",
    "match_frames",
    "mse",
    "psnr_db",
    "ssim",
]

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "correlation": "testbed.metrics.series:CORRELATION",
        "fft2d": "testbed.metrics.images:FFT2D",
        "fsim": "testbed.metrics.perceptual:FSIM",
        "gmsd": "testbed.metrics.images:GMSD",
        "haarpsi": "testbed.metrics.perceptual:HAARPSI",
        "identified": "testbed.metrics.identity:IDENTIFIED",
        "label-accuracy": "testbed.metrics.identity:LABEL_ACCURACY",
        "lpips": "testbed.metrics.learned:LPIPS",
        "mse": "testbed.metrics.images:MSE",
        "pool-rank": "testbed.metrics.identity:POOL_RANK",
        "psnr": "testbed.metrics.images:PSNR",
        "reidentified": "testbed.metrics.identity:REIDENTIFIED",
        "smape": "testbed.metrics.series:SMAPE",
        "spike-iou": "testbed.metrics.trains:SPIKE_IOU",
        "ssim": "testbed.metrics.images:SSIM",
        "temporal-correlation": "testbed.metrics.trains:TEMPORAL_CORRELATION",
        "van-rossum": "testbed.metrics.trains:VAN_ROSSUM",
    },
)
