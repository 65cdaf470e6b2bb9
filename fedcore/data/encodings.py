"""Encodings: how an example in [0, 1] becomes a train over time, [time, batch, feature...].

An encoding is a frozen dataclass whose fields are its options. It draws from the stream it is
given and keeps nothing, so that the same stream gives the same train.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from fedcore.errors import ConfigError
from fedcore.plan import Choice, EncodingSpec
from fedcore.registry import Registry
from fedcore.strict import build

__all__ = [
    "ENCODINGS",
    "Delta",
    "Direct",
    "Encoding",
    "Events",
    "Latency",
    "Rate",
    "encode",
    "encoding_of",
]


class Encoding(ABC):
    """From inputs to a train."""

    @property
    def is_binary(self) -> bool:
        """Whether every value of every train is 0 or 1; not so unless an encoding says it."""
        return False

    @abstractmethod
    def __call__(self, inputs: np.ndarray, *, n_steps: int, rng: np.random.Generator) -> np.ndarray:
        """Encode a batch.

        Args:
            inputs: in [0, 1], float32 [batch, feature...].
            n_steps: length of the train.
            rng: the client's secret "encode" stream.

        Returns:
            float32 [time, batch, feature...].

        Raises:
            ConfigError: the inputs have no such time axis, or another length.
        """


@dataclass(frozen=True, kw_only=True)
class Direct(Encoding):
    """The same constant current at every step."""

    def __call__(self, inputs: np.ndarray, *, n_steps: int, rng: np.random.Generator) -> np.ndarray:
        """Repeat the inputs; draws nothing."""
        del rng
        return np.repeat(inputs[np.newaxis], n_steps, axis=0)


@dataclass(frozen=True, kw_only=True)
class Rate(Encoding):
    """Bernoulli spikes: a feature x fires at each step with probability `max_rate` * x.

    Attributes:
        max_rate: probability of a spike per step where the input is 1, in (0, 1].
    """

    is_binary = True
    max_rate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.max_rate <= 1:
            raise ConfigError(f"max_rate must lie in (0, 1]; got {self.max_rate}")

    def __call__(self, inputs: np.ndarray, *, n_steps: int, rng: np.random.Generator) -> np.ndarray:
        """Draw one uniform number per step and feature."""
        uniform = rng.random((n_steps, *inputs.shape), dtype=np.float32)
        return np.asarray(uniform < np.float32(self.max_rate) * inputs, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Latency(Encoding):
    """At most one spike per feature, the earlier the brighter.

    A feature x fires at step floor((1 - x) * n_steps), so that 1 fires first; zero never fires.

    Attributes:
        threshold: features at or below it never fire, in [0, 1).
    """

    is_binary = True
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"threshold must lie in [0, 1); got {self.threshold}")

    def __call__(self, inputs: np.ndarray, *, n_steps: int, rng: np.random.Generator) -> np.ndarray:
        """Place the spikes; draws nothing."""
        del rng
        when = np.minimum(((1 - inputs) * n_steps).astype(np.int64), n_steps - 1)
        when[inputs <= self.threshold] = n_steps  # after the end
        steps = np.arange(n_steps).reshape(-1, *([1] * inputs.ndim))
        return np.asarray(steps == when, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Delta(Encoding):
    """Spikes where a signal changes: 1 where it rose by at least `threshold` since the last step.

    The inputs bring their own time axis, whose length must be `n_steps`; the first step is silent.

    Attributes:
        threshold: smallest change that counts, in (0, 1].
        off_spikes: -1 where the signal fell by at least `threshold`; otherwise falls are silent.
        time_axis: of the inputs; 1 for event frames [batch, time, ...], 2 for series
            [batch, channel, time].
    """

    threshold: float = 0.1
    off_spikes: bool = True
    time_axis: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold must lie in (0, 1]; got {self.threshold}")
        if self.time_axis < 1:
            raise ConfigError(f"time_axis must be >= 1 (0 is the batch); got {self.time_axis}")

    @property
    def is_binary(self) -> bool:
        """Off spikes are -1."""
        return not self.off_spikes

    def __call__(self, inputs: np.ndarray, *, n_steps: int, rng: np.random.Generator) -> np.ndarray:
        """Compare neighbouring steps; draws nothing."""
        del rng
        signal = _time_first(inputs, axis=self.time_axis, encoding="delta")
        if len(signal) != n_steps:
            raise ConfigError(
                f"encoding 'delta': the inputs have {len(signal)} steps along axis "
                f"{self.time_axis}, but n_steps is {n_steps}; make them equal"
            )
        change = np.diff(signal, axis=0, prepend=signal[:1])
        spikes = (change >= self.threshold).astype(np.float32)
        if self.off_spikes:
            spikes -= change <= -self.threshold
        return spikes


@dataclass(frozen=True, kw_only=True)
class Events(Encoding):
    """Event frames as they are: [batch, time, ...] becomes [time, batch, ...].

    Where there are more frames than steps, neighbouring frames are added up.

    Attributes:
        binary: 1 wherever anything happened; otherwise the sum, which may exceed 1.
    """

    binary: bool = True

    @property
    def is_binary(self) -> bool:
        """Sums may exceed 1."""
        return self.binary

    def __call__(self, inputs: np.ndarray, *, n_steps: int, rng: np.random.Generator) -> np.ndarray:
        """Add up frames; draws nothing."""
        del rng
        frames = _time_first(inputs, axis=1, encoding="events")
        if len(frames) < n_steps:
            raise ConfigError(
                f"encoding 'events': {len(frames)} frames cannot fill {n_steps} steps; "
                "lower n_steps or raise the data set's n_bins"
            )
        first_frames = np.arange(n_steps) * len(frames) // n_steps
        summed = np.add.reduceat(frames, first_frames, axis=0)
        if self.binary:
            return np.asarray(summed > 0, dtype=np.float32)
        return np.asarray(summed)


def _time_first(inputs: np.ndarray, *, axis: int, encoding: str) -> np.ndarray:
    if inputs.ndim <= axis:
        raise ConfigError(
            f"encoding {encoding!r} needs a time axis {axis}; the inputs have shape {inputs.shape}"
        )
    return np.moveaxis(inputs, axis, 0)


ENCODINGS: Registry[type[Encoding]] = Registry(
    "encoding",
    {
        "delta": "fedcore.data.encodings:Delta",
        "direct": "fedcore.data.encodings:Direct",
        "events": "fedcore.data.encodings:Events",
        "latency": "fedcore.data.encodings:Latency",
        "rate": "fedcore.data.encodings:Rate",
    },
)


def encoding_of(spec: EncodingSpec) -> Encoding:
    """The encoding that a spec names, with its options.

    Raises:
        PluginError: no encoding of that name.
        ConfigError: an option is unknown or refused.
    """
    return build(ENCODINGS, Choice(name=spec.name, options=spec.options))


def encode(spec: EncodingSpec, inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The train of a batch, as the plan prescribes.

    Args:
        spec: encoding, steps and options.
        inputs: in [0, 1], [batch, feature...].
        rng: the client's secret "encode" stream; the same stream gives the same train.

    Returns:
        float32 [time, batch, feature...], C-contiguous.

    Raises:
        ConfigError: unknown name or option, inputs outside [0, 1], no batch, or a time axis that
            does not fit.
    """
    encoding = encoding_of(spec)
    if inputs.ndim < 2 or inputs.size == 0:
        raise ConfigError(f"inputs must be [batch, feature...]; got shape {inputs.shape}")
    low, high = inputs.min(), inputs.max()
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise ConfigError(f"inputs must lie in [0, 1]; got [{low:.3g}, {high:.3g}]")
    train = encoding(np.asarray(inputs, dtype=np.float32), n_steps=spec.n_steps, rng=rng)
    return np.asarray(train, dtype=np.float32, order="C")
