"""What every registered defence promises, whoever wrote it."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore.cohort import PairSecrets
from fedcore.defences.base import DEFENCES, Defence, chain
from fedcore.errors import ConfigError
from fedcore.plan import Choice, ModelSpec
from fedcore.seeds import ClientSecret, stream
from fedcore.tensors import schema_of

pytestmark = pytest.mark.parametrize("name", DEFENCES.names())

NEEDED_OPTIONS: dict[str, dict[str, object]] = {
    "dp-sgd": {"max_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 2},
    "gaussian": {"std": 0.1},
    "laplace": {"scale": 0.1},
    "soteria": {"layer": "fc", "fraction": 0.5},
    "withhold": {"names": ["*.bias"]},
}


def defence(name: str) -> Defence:
    return chain([Choice(name=name, options=NEEDED_OPTIONS.get(name, {}))])


class Batch:
    """Two examples as a defence may see them."""

    def sensitivity(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        assert layer == "fc"
        values, slopes = np.arange(28, dtype=np.float32).reshape(2, 2, 7) + 1
        return values, slopes


COHORT = PairSecrets.deal("a", ["a", "b"], master=ClientSecret(bytes(32))).of_round("run", 0)


def update() -> dict[str, np.ndarray]:
    rng = stream(0, "defence test")
    shapes = {"fc.weight": (10, 7), "fc.bias": (10,), "gain": (), "none": (0, 3)}
    tensors = {n: np.asarray(rng.normal(size=s), dtype=np.float32) for n, s in shapes.items()}
    for tensor in tensors.values():
        tensor.flags.writeable = False  # whoever alters an argument fails here
    return tensors


def test_names_order_shapes_and_dtype_are_kept(name: str) -> None:
    sent = update()
    got = defence(name).update(sent, stream(0))
    assert list(got) == list(sent)
    assert schema_of(got) == schema_of(sent)
    for tensor in got.values():
        assert isinstance(tensor, np.ndarray)
        assert tensor.dtype == np.float32


def test_the_same_stream_gives_the_same_update(name: str) -> None:
    first = defence(name).update(update(), stream(0))
    again = defence(name).update(update(), stream(0))
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])


def test_every_hook_keeps_its_shape_and_one_acts(name: str) -> None:
    one, spec, sent = defence(name), ModelSpec(), update()
    assert one.hooks
    assert isinstance(one.model(spec), ModelSpec)
    per_example = {key: np.stack([t, t]) for key, t in sent.items()}
    assert schema_of(one.example_gradients(per_example)) == schema_of(per_example)
    assert schema_of(one.informed_update(sent, Batch())) == schema_of(sent)
    hidden = one.hidden(sent, COHORT)
    assert list(hidden) == list(sent)
    assert schema_of(hidden) == schema_of(sent)
    assert {t.dtype for t in hidden.values()} == {np.dtype(np.float32)}
    assert [schema_of(u) for u in one.aggregate(iter([sent, sent]))] == [schema_of(sent)] * 2


def test_hooks_that_are_not_overridden_change_nothing(name: str) -> None:
    one, spec, sent = defence(name), ModelSpec(), update()
    unchanged = {
        "model": lambda: one.model(spec) is spec,
        "example_gradients": lambda: one.example_gradients(sent) is sent,
        "informed_update": lambda: one.informed_update(sent, Batch()) is sent,
        "update": lambda: one.update(sent, stream(0)) is sent,
        "hidden": lambda: one.hidden(sent, COHORT) is sent,
        "aggregate": lambda: next(one.aggregate(iter([sent]))) is sent,
    }
    assert all(unchanged[hook]() for hook in unchanged.keys() - one.hooks)


def test_unknown_options_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"defence '{name}': unknown key 'colour'"):
        chain([Choice(name=name, options={"colour": 1})])
