"""Laws of the encodings."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.data.encodings import encode
from fedcore.errors import ConfigError
from fedcore.plan import EncodingSpec
from fedcore.seeds import stream

brightness = st.floats(0, 1, width=32)
batches = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=brightness
)
series = hnp.arrays(
    np.float32, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 0.25, 0.5, 1])
)


def run(name: str, inputs: np.ndarray, *, n_steps: int, **options: Any) -> np.ndarray:
    return encode(EncodingSpec(name=name, n_steps=n_steps, options=options), inputs, stream(0))


@given(inputs=batches, n_steps=st.integers(1, 5))
def test_direct_shows_the_input_at_every_step(inputs: np.ndarray, n_steps: int) -> None:
    train = run("direct", inputs, n_steps=n_steps)
    assert len(train) == n_steps
    for step in train:
        np.testing.assert_array_equal(step, inputs)


@pytest.mark.parametrize("max_rate", [1.0, 0.3])
def test_rates_are_the_brightness_within_binomial_bounds(max_rate: float) -> None:
    """Each count of n draws stays within 6 standard deviations of its binomial mean."""
    n, levels = 20_000, np.linspace(0, 1, 11, dtype=np.float32)
    counts = run("rate", levels[np.newaxis], n_steps=n, max_rate=max_rate).sum(axis=0)[0]
    for count, level in zip(counts, levels, strict=True):
        p = max_rate * float(level)
        assert abs(count - n * p) <= 6 * math.sqrt(n * p * (1 - p))


def test_rate_draws_are_independent_over_steps_and_features() -> None:
    train = run("rate", np.full((2, 50), 0.5, np.float32), n_steps=1000)
    signs = 2 * train - 1
    limit = 6 / math.sqrt(signs[:-1].size)
    assert abs(np.mean(signs[:-1] * signs[1:])) < limit
    assert abs(np.mean(signs[:, :1] * signs[:, 1:])) < 6 / math.sqrt(signs[:, 1:].size)
    assert abs(np.mean(signs[..., :-1] * signs[..., 1:])) < limit


def test_another_stream_gives_another_train() -> None:
    spec, inputs = EncodingSpec(name="rate", n_steps=8), np.full((4, 16), 0.5, np.float32)
    assert not np.array_equal(encode(spec, inputs, stream(0)), encode(spec, inputs, stream(1)))


@given(inputs=batches, n_steps=st.integers(1, 9), threshold=st.floats(0, 0.9))
def test_latency_fires_once_and_the_brighter_the_earlier(
    inputs: np.ndarray, n_steps: int, threshold: float
) -> None:
    train = run("latency", inputs, n_steps=n_steps, threshold=threshold)
    fires = inputs > threshold
    np.testing.assert_array_equal(train.sum(axis=0), fires)
    when = np.argmax(train, axis=0)[fires]
    order = np.argsort(inputs[fires])
    assert (np.diff(when[order]) <= 0).all()


@given(n_steps=st.integers(1, 40))
def test_latency_uses_the_whole_train(n_steps: int) -> None:
    ramp = np.linspace(0, 1, 50 * n_steps, dtype=np.float32)[np.newaxis]
    train = run("latency", ramp, n_steps=n_steps)[:, 0]
    assert (train.sum(axis=1) > 0).all()
    assert train[0, -1] == 1
    assert train[:, 0].sum() == 0  # black stays silent


@given(inputs=series, threshold=st.sampled_from([0.25, 0.5, 1.0]), axis=st.sampled_from([1, 2]))
def test_delta_fires_where_a_step_changed_enough(
    inputs: np.ndarray, threshold: float, axis: int
) -> None:
    """Oracle: the slow loop."""
    signal = np.moveaxis(inputs, axis, 0)
    expected = np.zeros(signal.shape)
    for t in range(1, len(signal)):
        for place in np.ndindex(*signal.shape[1:]):
            change = signal[t][place] - signal[t - 1][place]
            expected[t][place] = np.sign(change) * (abs(change) >= threshold)
    options = {"threshold": threshold, "time_axis": axis}
    both = run("delta", inputs, n_steps=len(signal), **options)
    rises = run("delta", inputs, n_steps=len(signal), off_spikes=False, **options)
    np.testing.assert_array_equal(both, expected)
    np.testing.assert_array_equal(rises, np.maximum(expected, 0))


@given(frames=series, data=st.data())
def test_events_add_up_neighbouring_frames(frames: np.ndarray, data: Any) -> None:
    n_frames = frames.shape[1]
    n_steps = data.draw(st.integers(1, n_frames))
    expected = np.zeros((n_steps, frames.shape[0], frames.shape[2]))
    for t in range(n_frames):  # the last step that starts at or before this frame
        step = max(s for s in range(n_steps) if s * n_frames // n_steps <= t)
        expected[step] += frames[:, t]
    np.testing.assert_allclose(run("events", frames, n_steps=n_steps, binary=False), expected)
    np.testing.assert_array_equal(run("events", frames, n_steps=n_steps), expected > 0)


@pytest.mark.parametrize(
    ("name", "options", "shape", "n_steps", "message"),
    [
        ("delta", {}, (2, 5, 3), 4, "5 steps along axis 1, but n_steps is 4"),
        ("delta", {"time_axis": 3}, (2, 5, 3), 5, "needs a time axis 3"),
        ("delta", {"time_axis": 0}, (2, 5, 3), 5, "time_axis must be >= 1"),
        ("delta", {"threshold": 0.0}, (2, 5, 3), 5, "threshold must lie in"),
        ("events", {}, (2, 5, 3), 6, "5 frames cannot fill 6 steps"),
        ("rate", {"max_rate": 0.0}, (2, 5), 6, "max_rate must lie in"),
        ("latency", {"threshold": 1.0}, (2, 5), 6, "threshold must lie in"),
    ],
)
def test_impossible_settings_get_one_clear_line(
    name: str, options: dict[str, Any], shape: tuple[int, ...], n_steps: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(name, np.zeros(shape, np.float32), n_steps=n_steps, **options)
