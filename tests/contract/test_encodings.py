"""What every registered encoding promises, whoever wrote it."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from fedcore.data.encodings import ENCODINGS, encode, encoding_of
from fedcore.errors import ConfigError
from fedcore.plan import EncodingSpec
from fedcore.seeds import stream

pytestmark = pytest.mark.parametrize("name", ENCODINGS.names())

STEPS = 6


def frames(seed: int = 0) -> np.ndarray:
    """[batch, time, polarity, height, width]: every encoding can take a train of frames."""
    inputs = stream(seed, "encoding test").random((3, STEPS, 2, 4, 5), dtype=np.float32)
    inputs.flags.writeable = False
    return inputs


def test_time_comes_first_in_float32(name: str) -> None:
    train = encode(EncodingSpec(name=name, n_steps=STEPS), frames(), stream(0))
    brings_its_own_time = name in {"delta", "events"}
    expected = (STEPS, 3, 2, 4, 5) if brings_its_own_time else (STEPS, 3, STEPS, 2, 4, 5)
    assert train.shape == expected
    assert train.dtype == np.float32
    assert train.flags.c_contiguous
    assert train.flags.writeable
    assert np.abs(train).max() <= 1


def test_the_same_stream_gives_the_same_train(name: str) -> None:
    spec = EncodingSpec(name=name, n_steps=STEPS)
    np.testing.assert_array_equal(
        encode(spec, frames(), stream(0)), encode(spec, frames(), stream(0))
    )


def test_examples_do_not_see_each_other(name: str) -> None:
    if name == "rate":
        pytest.skip("draws depend on the batch's size")
    spec = EncodingSpec(name=name, n_steps=STEPS)
    together = encode(spec, frames(), stream(0))
    for i in range(3):
        alone = encode(spec, frames()[i : i + 1], stream(0))
        np.testing.assert_array_equal(alone[:, 0], together[:, i])


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan, np.inf])
def test_inputs_outside_zero_to_one_are_refused(name: str, bad: float) -> None:
    inputs = frames().copy()
    inputs[0, 0, 0, 0, 0] = bad
    with pytest.raises(ConfigError, match=r"inputs must lie in \[0, 1\]; got"):
        encode(EncodingSpec(name=name, n_steps=STEPS), inputs, stream(0))


@pytest.mark.parametrize("shape", [(), (5,), (0, 5)])
def test_what_is_no_batch_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"\[batch, feature"):
        encode(EncodingSpec(name=name), np.zeros(shape, np.float32), stream(0))


def test_unknown_options_are_named(name: str) -> None:
    spec = EncodingSpec(name=name, n_steps=STEPS, options={"colour": 1})
    with pytest.raises(ConfigError, match=f"encoding '{name}': unknown key 'colour'"):
        encode(spec, frames(), stream(0))


def test_binary_is_what_sends_zeros_and_ones_alone(name: str) -> None:
    """Whatever its switches say; three steps for six frames, so that summed events exceed 1."""
    switches = [f.name for f in fields(ENCODINGS.get(name)) if isinstance(f.default, bool)]
    inputs = (frames() > 0.3).astype(np.float32) if name == "events" else frames()
    if name == "delta":
        inputs = inputs[:, :3]
    for options in [{}, *({switch: value} for switch in switches for value in (False, True))]:
        spec = EncodingSpec(name=name, n_steps=3, options=options)
        train = encode(spec, inputs, stream(0))
        assert encoding_of(spec).is_binary == bool(np.isin(train, (0, 1)).all()), options
