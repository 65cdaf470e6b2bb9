"""Laws of the defences: bounds hold, counts are exact, harmless settings change nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.codecs.base import codec_of
from fedcore.defences.base import Defence, chain
from fedcore.defences.clip import global_norm
from fedcore.defences.noise import SystemNoise
from fedcore.errors import ConfigError, PluginError, Refusal, UpdateError
from fedcore.plan import Choice
from fedcore.seeds import stream

Tensors = dict[str, np.ndarray]

updates: st.SearchStrategy[Tensors] = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    min_size=1,
)


def make(name: str, **options: Any) -> Defence:
    return chain([Choice(name=name, options=options)])


def assert_same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def flat(tensors: Mapping[str, np.ndarray]) -> list[float]:
    return [float(v) for t in tensors.values() for v in t.reshape(-1)]


@given(update=updates)
def test_global_norm_is_the_norm_of_all_values(update: Tensors) -> None:
    assert math.isclose(global_norm(update), math.hypot(*flat(update)), rel_tol=1e-12)


@given(update=updates, bound=st.floats(1e-3, 1e4))
def test_clipping_keeps_the_bound_and_the_direction(update: Tensors, bound: float) -> None:
    clipped = make("clip", max_norm=bound).update(update, stream(0))
    before, after = global_norm(update), global_norm(clipped)
    assert math.isclose(after, min(before, bound), rel_tol=1e-5, abs_tol=1e-30)
    dot = sum(x * y for x, y in zip(flat(update), flat(clipped), strict=True))
    assert math.isclose(dot, before * after, rel_tol=1e-5, abs_tol=1e-30)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_cannot_be_clipped_is_not_sent(bad: float) -> None:
    with pytest.raises(UpdateError) as caught:
        make("clip").update({"w": np.float32([1, bad])}, stream(0))
    assert caught.value.refusal is Refusal.NOT_FINITE


@given(update=updates)
def test_harmless_settings_are_no_defence(update: Tensors) -> None:
    harmless = chain(
        [
            Choice(name="clip", options={"max_norm": 1e30}),
            Choice(name="gaussian", options={"std": 0.0}),
            Choice(name="topk", options={"fraction": 1.0}),
            Choice(name="topk", options={"fraction": 1, "scope": "global"}),
        ]
    )
    assert_same(harmless.update(update, stream(0)), update)
    assert_same(chain(()).update(update, stream(0)), update)
    assert chain(()).hooks == frozenset()


def test_a_chain_is_its_steps_from_left_to_right() -> None:
    update = {"w": np.float32([3, 4])}
    choices = [Choice(name="clip"), Choice(name="gaussian", options={"std": 1.0})]
    rng = stream(0)
    by_hand = chain(choices[1:]).update(chain(choices[:1]).update(update, rng), rng)
    assert_same(chain(choices).update(update, stream(0)), by_hand)
    reversed_order = chain(choices[::-1]).update(update, stream(0))
    assert global_norm(reversed_order) <= 1 + 1e-6 < global_norm(by_hand)


@pytest.mark.parametrize(
    ("options", "sigma"),
    [({"std": 0.5}, 0.5), ({"noise_multiplier": 2.0, "max_norm": 0.25}, 0.5), ({"std": 3}, 3.0)],
)
def test_noise_has_the_stated_standard_deviation(options: dict[str, Any], sigma: float) -> None:
    n = 200_000
    update = {"a": np.full((n // 2,), 7, np.float32), "b": np.full((n // 4, 2), 7, np.float32)}
    noisy = make("gaussian", **options).update(update, stream(0))
    noise = np.array(flat(noisy)) - 7
    five_sigma = 5 * sigma / math.sqrt(n)
    assert abs(noise.mean()) < five_sigma
    assert abs(noise.std() - sigma) < five_sigma / math.sqrt(2)
    assert not np.array_equal(noisy["a"], noisy["b"].reshape(-1))  # never the same draw twice


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"std": 1.0, "max_norm": 1.0},
        {"noise_multiplier": 1.0},
        {"max_norm": 1.0},
        {"std": -1.0},
        {"noise_multiplier": -1.0, "max_norm": -1.0},
    ],
)
def test_noise_needs_one_clear_strength(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="defence 'gaussian': "):
        make("gaussian", **options)


def n_kept(size: int, fraction: float) -> int:
    return min(size, max(1, round(fraction * size)))


@given(update=updates, fraction=st.floats(0.01, 1))
def test_topk_keeps_the_largest_of_each_tensor(update: Tensors, fraction: float) -> None:
    kept = make("topk", fraction=fraction).update(update, stream(0))
    for name, before in update.items():
        n = n_kept(before.size, fraction)
        ranked = sorted(map(abs, flat({name: before})), reverse=True)
        assert sorted(map(abs, flat({name: kept[name]})), reverse=True) == (
            ranked[:n] + [0.0] * (before.size - n)
        )
        assert set(np.unique(kept[name])) <= set(np.unique(before)) | {0.0}


@given(update=updates, fraction=st.floats(0.01, 1))
def test_topk_can_rank_the_whole_update(update: Tensors, fraction: float) -> None:
    kept = make("topk", fraction=fraction, scope="global").update(update, stream(0))
    before, after = flat(update), flat(kept)
    n = n_kept(len(before), fraction)
    ranked = sorted(map(abs, before), reverse=True)
    assert sorted(map(abs, after), reverse=True) == ranked[:n] + [0.0] * (len(before) - n)
    assert all(a in (0.0, b) for a, b in zip(after, before, strict=True))


@given(update=updates)
def test_sign_keeps_signs_and_each_tensors_mean_magnitude(update: Tensors) -> None:
    signs = make("sign", scale="unit").update(update, stream(0))
    scaled = make("sign").update(update, stream(0))
    for name, before in update.items():
        np.testing.assert_array_equal(signs[name], np.sign(before))
        mean = math.fsum(map(abs, flat({name: before}))) / max(before.size, 1)
        expected = np.sign(before).astype(np.float64) * mean
        np.testing.assert_allclose(scaled[name], expected, rtol=1e-6, atol=1e-40)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip", {"max_norm": 0.0}),
        ("topk", {"fraction": 0.0}),
        ("topk", {"fraction": 1.1}),
        ("laplace", {"scale": -1.0}),
        ("qsgd", {"levels": 0}),
        ("dp-sgd", {"max_norm": 0.0, "noise_multiplier": 1.0, "batch_size": 1}),
        ("dp-sgd", {"noise_multiplier": -1.0, "max_norm": 1.0, "batch_size": 1}),
        ("dp-sgd", {"batch_size": 0, "max_norm": 1.0, "noise_multiplier": 1.0}),
    ],
)
def test_impossible_settings_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        make(name, **options)


def test_laplace_noise_has_the_stated_spread_and_heavier_tails_than_a_gaussian() -> None:
    n, scale = 200_000, 0.5
    noisy = make("laplace", scale=scale).update({"a": np.full(n, 7, np.float32)}, stream(0))
    noise = noisy["a"].astype(np.float64) - 7
    assert abs(noise.mean()) < 5 * scale * math.sqrt(2 / n)
    assert math.isclose(np.abs(noise).mean(), scale, rel_tol=0.015)
    assert math.isclose(np.mean(np.abs(noise) > 4 * scale), math.exp(-4), rel_tol=0.1)


@pytest.mark.parametrize("name", ["laplace", "gaussian", "qsgd"])
def test_the_systems_generator_serves_every_defence(name: str) -> None:
    options = {"laplace": {"scale": 1.0}, "gaussian": {"std": 1.0}, "qsgd": {"levels": 3}}[name]
    update = {"a": stream(0).normal(size=(50, 60)).astype(np.float32)}
    one, other = (make(name, **options).update(update, SystemNoise()) for _ in range(2))
    assert not np.array_equal(one["a"], other["a"])
    assert abs(float(np.mean(one["a"] - update["a"]))) < 0.15


@given(
    norms=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5),
    bound=st.floats(1e-2, 1e2),
    batch_size=st.integers(1, 6),
)
def test_one_example_weighs_no_more_than_its_bound(
    norms: list[float], bound: float, batch_size: int
) -> None:
    """Of the mean that the backend takes, the example's share is at most bound / batch_size."""
    directions = stream(0).normal(size=(len(norms), 12))
    directions *= np.array(norms)[:, None] / np.linalg.norm(directions, axis=1)[:, None]
    examples = {
        "w": directions[:, :8].reshape(-1, 2, 4).astype(np.float32),
        "b": directions[:, 8:].astype(np.float32),
    }
    dp = make("dp-sgd", max_norm=bound, noise_multiplier=0.0, batch_size=batch_size)
    clipped = dp.example_gradients(examples)
    for i, norm in enumerate(norms):
        share = global_norm({n: g[i] for n, g in clipped.items()}) / len(norms)
        assert math.isclose(share, min(norm, bound) / batch_size, rel_tol=1e-4)


def test_dp_sgd_adds_the_noise_of_its_sum() -> None:
    dp = make("dp-sgd", max_norm=0.5, noise_multiplier=4.0, batch_size=8)
    noise = dp.update({"w": np.zeros(100_000, np.float32)}, stream(0))["w"]
    assert math.isclose(float(noise.std()), 4.0 * 0.5 / 8, rel_tol=0.01)


@given(update=updates, levels=st.integers(1, 127))
def test_qsgd_rounds_to_a_neighbouring_level(update: Tensors, levels: int) -> None:
    rounded = make("qsgd", levels=levels).update(update, stream(0))
    for name, before in update.items():
        step = np.max(np.abs(before), initial=0.0) / levels
        if step > 1e-30:
            steps = rounded[name].astype(np.float64) / step
            np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
            assert np.abs(rounded[name] - before).max() < step * 1.001


def test_qsgd_has_no_bias_and_its_codec_loses_nothing() -> None:
    update = {"w": np.linspace(-1, 1, 41, dtype=np.float32)}
    rng = stream(0)
    drawn = [make("qsgd", levels=7).update(update, rng) for _ in range(4000)]
    mean = np.mean([d["w"] for d in drawn], axis=0)
    np.testing.assert_allclose(mean, update["w"], atol=5 * (1 / 7) / 2 / math.sqrt(4000))
    for levels, name in ((7, "int4"), (127, "int8")):
        sent = make("qsgd", levels=levels).update(update, rng)
        codec = codec_of(Choice(name=name))
        got, _ = codec.decode(codec.encode(sent, note={}), schema={"w": (41,)})
        np.testing.assert_allclose(got["w"], sent["w"], rtol=1e-6)


def test_what_is_withheld_is_zero_and_the_rest_is_sent() -> None:
    update = {"conv1.bias": np.ones(2, np.float32), "conv1.weight": np.ones(3, np.float32)}
    sent = make("withhold", names=["*.bias"]).update(update, stream(0))
    assert_same(sent, {**update, "conv1.bias": np.zeros(2, np.float32)})
    with pytest.raises(ConfigError, match="no tensor is called 'fc'"):
        make("withhold", names=["fc"]).update(update, stream(0))


def test_an_unknown_defence_gets_the_nearest_name() -> None:
    with pytest.raises(PluginError, match="did you mean 'clip'"):
        make("clipp")
