"""Event cameras: N-MNIST's 5-byte records, read directly (tonic is GPL-3.0, and not needed)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from fedcore.data.datasets import Dataset, Examples, Split, folder_of, split_folders
from fedcore.errors import ConfigError

__all__ = ["EventStream", "NMnist", "event_frames", "read_events"]

_SIDE = 34  # pixels of N-MNIST's cut-out
_OVERFLOW_ROW = 240  # a record whose y says that the timer of 2^13 us ran over
_OVERFLOW_US = 1 << 13


class EventStream(NamedTuple):
    """One recording, event by event; four int64 arrays of the same length."""

    x: np.ndarray
    y: np.ndarray
    polarity: np.ndarray  # 1: brighter, 0: darker
    t_us: np.ndarray  # since the start of the recording


def read_events(blob: bytes) -> EventStream:
    """Decode N-MNIST's format (Orchard et al. 2015, doi:10.3389/fnins.2015.00437).

    A record is x, y, and 24 bits, most significant byte first: polarity, then 23 bits of time in
    us. A record with y = 240 is no event: it adds 2^13 us to every time stamp after it.

    Raises:
        ConfigError: the length is no multiple of five.
    """
    if len(blob) % 5:
        raise ConfigError(f"{len(blob)} bytes of events; records have 5 bytes each")
    columns = np.frombuffer(blob, dtype=np.uint8).reshape(-1, 5).astype(np.int64).T
    x, y, high, middle, low = columns
    overflow = y == _OVERFLOW_ROW
    t_us = ((high & 0x7F) << 16 | middle << 8 | low) + _OVERFLOW_US * np.cumsum(overflow)
    event = ~overflow
    return EventStream(x=x[event], y=y[event], polarity=high[event] >> 7, t_us=t_us[event])


def event_frames(events: EventStream, *, n_bins: int, side: int, max_count: int = 1) -> np.ndarray:
    """Count events in `n_bins` equal stretches of the recording.

    Args:
        events: of a sensor with `side` x `side` pixels.
        n_bins: number of frames.
        side: height and width.
        max_count: events per pixel and frame that count as 1; further ones are ignored.

    Returns:
        float32 in [0, 1], [time, polarity, height, width].

    Raises:
        ConfigError: an event lies outside the sensor.
    """
    counts = np.zeros((n_bins, 2, side, side), dtype=np.float32)
    if events.t_us.size == 0:
        return counts
    if max(events.x.max(), events.y.max()) >= side:
        raise ConfigError(
            f"an event at ({events.x.max()}, {events.y.max()}) lies outside {side} x {side} pixels"
        )
    bins = events.t_us * n_bins // (events.t_us.max() + 1)
    np.add.at(counts, (bins, events.polarity, events.y, events.x), 1)
    return np.asarray(np.minimum(counts, max_count) / np.float32(max_count))


@dataclass(frozen=True, kw_only=True)
class NMnist(Dataset):
    """MNIST before a moving event camera: `<root>/{Train,Test}/<digit>/*.bin`, any subset of it.

    Examples are frames [time, polarity, 34, 34], ordered by digit and file name.

    Attributes:
        n_bins: frames per recording.
        max_count: events per pixel and frame that count as 1; with 1, frames are binary.
        per_class: read only so many recordings of each digit; 0 takes all.
    """

    name: ClassVar[str] = "nmnist"

    n_bins: int = 10
    max_count: int = 1
    per_class: int = 0

    def __post_init__(self) -> None:
        for option, least in (("n_bins", 1), ("max_count", 1), ("per_class", 0)):
            if getattr(self, option) < least:
                raise ConfigError(f"{option} must be >= {least}; got {getattr(self, option)}")

    def load(self, root: Path | None, *, split: Split) -> Examples:
        """Read every recording."""
        folder = folder_of(self.name, root)
        files = [
            (path, digit)
            for part in split_folders(folder, split, names=("Train", "Test"), dataset=self.name)
            for digit in range(10)
            for path in sorted((part / str(digit)).glob("*.bin"))[: self.per_class or None]
        ]
        if not files:
            raise ConfigError(f"data set {self.name!r}: no <digit>/*.bin below {folder}")
        return Examples(
            inputs=np.stack([self._frames(path) for path, _ in files]),
            labels=np.array([digit for _, digit in files], dtype=np.int64),
            class_names=tuple("0123456789"),
        )

    def _frames(self, path: Path) -> np.ndarray:
        try:
            events = read_events(path.read_bytes())
            return event_frames(events, n_bins=self.n_bins, side=_SIDE, max_count=self.max_count)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
