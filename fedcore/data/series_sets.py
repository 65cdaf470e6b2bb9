"""Time series: human activity from a phone's sensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedcore.data.datasets import Dataset, Examples, Split, folder_of, split_folders
from fedcore.errors import ConfigError

__all__ = ["UciHar"]

_ACCELEROMETER = (
    "body_acc_x",
    "body_acc_y",
    "body_acc_z",
    "total_acc_x",
    "total_acc_y",
    "total_acc_z",
)
_GYROSCOPE = ("body_gyro_x", "body_gyro_y", "body_gyro_z")
_ACTIVITIES = (
    "walking",
    "walking-upstairs",
    "walking-downstairs",
    "sitting",
    "standing",
    "laying",
)


@dataclass(frozen=True, kw_only=True)
class UciHar(Dataset):
    """Six activities of 30 people, 50 Hz (Anguita et al. 2013, ESANN; doi:10.24432/C54S4K).

    Windows [channel, time] of 9 x 128 values. Channels 0 to 5 are acceleration in g, 6 to 8 are
    angular velocity in rad/s; each is mapped linearly from [-range, range] to [0, 1] with a range
    that does not depend on the data, and clipped. Neighbouring windows overlap by half.
    `root` is the unpacked "UCI HAR Dataset", with `train` or `test` or both.

    Attributes:
        acceleration_range_g: that becomes 1.
        rotation_range_rad_s: that becomes 1.
    """

    name: ClassVar[str] = "uci-har"

    acceleration_range_g: float = 2.5
    rotation_range_rad_s: float = 6.0

    def __post_init__(self) -> None:
        for option in ("acceleration_range_g", "rotation_range_rad_s"):
            if not getattr(self, option) > 0:
                raise ConfigError(f"{option} must be > 0; got {getattr(self, option)}")

    def load(self, root: Path | None, *, split: Split) -> Examples:
        """Read the text files."""
        folder = folder_of(self.name, root)
        parts = split_folders(folder, split, names=("train", "test"), dataset=self.name)
        labels = np.concatenate([_column(part / f"y_{part.name}.txt") for part in parts])
        return Examples(
            inputs=np.concatenate([self._windows(part) for part in parts]),
            labels=labels - 1,
            class_names=_ACTIVITIES,
            subjects=np.concatenate([_column(part / f"subject_{part.name}.txt") for part in parts]),
        )

    def _windows(self, part: Path) -> np.ndarray:
        """float32 [window, channel, time] in [0, 1]."""
        ranges = dict.fromkeys(_ACCELEROMETER, self.acceleration_range_g)
        ranges |= dict.fromkeys(_GYROSCOPE, self.rotation_range_rad_s)
        channels = [
            _numbers(part / "Inertial Signals" / f"{name}_{part.name}.txt") / limit
            for name, limit in ranges.items()
        ]
        try:
            signals = np.stack(channels, axis=1)
        except ValueError as error:
            raise ConfigError(f"{part}: the signals' files differ in size") from error
        return np.clip((signals + 1) / 2, 0, 1).astype(np.float32)


def _numbers(path: Path) -> np.ndarray:
    """float64 [row, column]."""
    try:
        return np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise ConfigError(f"data set 'uci-har': {path} cannot be read ({error})") from error


def _column(path: Path) -> np.ndarray:
    """int64 [row]."""
    return _numbers(path)[:, 0].astype(np.int64)
