"""What every registered strategy promises, and slow oracles for each of ours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aggregator.strategies import base, means
from aggregator.strategies.base import STRATEGIES, RoundUpdates, StoredUpdate, strategy_of
from fedcore.defences.base import Defence
from fedcore.errors import ConfigError
from fedcore.plan import Choice
from fedcore.tensors import pack_weights, schema_of, unpack_weights
from fedcore.types import Update

NAMES = STRATEGIES.names()
WEIGHTS = {
    "a.bias": np.array([0.5, -0.25, 1.0], np.float32),
    "b.weight": np.arange(10, dtype=np.float32).reshape(2, 5) / 8,
}
values = st.floats(-4, 4, width=32)
settings.register_profile("files", suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def rounds(draw, min_size=1, max_size=6):
    """Deltas and weights of some clients, in client-id order."""
    n = draw(st.integers(min_size, max_size))
    tensors = [
        {name: draw(arrays(np.float32, t.shape, elements=values)) for name, t in WEIGHTS.items()}
        for _ in range(n)
    ]
    return tensors, draw(st.lists(st.integers(1, 50), min_size=n, max_size=n))


def stored(tensors, n_examples, *, kind="delta"):
    return [
        StoredUpdate(
            client_id=f"client-{i}",
            n_examples=n,
            load=lambda t=t, n=n: Update(kind=kind, tensors=t, n_examples=n, plan_digest=""),
        )
        for i, (t, n) in enumerate(zip(tensors, n_examples, strict=True))
    ]


def folded(name, updates, scratch, **options):
    strategy = strategy_of(Choice(name=name, options=options))
    return strategy.fold(RoundUpdates(updates, schema=schema_of(WEIGHTS), scratch=scratch))


def same(left, right):
    return left.keys() == right.keys() and all(
        left[k].tobytes() == right[k].tobytes() for k in left
    )


class Halving(Defence):
    """Halves every update on the aggregator."""

    def aggregate(self, updates):
        return ({name: t / 2 for name, t in update.items()} for update in updates)


@pytest.mark.parametrize("name", NAMES)
def test_a_defence_on_the_aggregator_sees_the_updates_first(name, tmp_path):
    tensors = [{n: np.full_like(t, i + 1) for n, t in WEIGHTS.items()} for i in range(5)]
    halves = [{n: t / 2 for n, t in update.items()} for update in tensors]
    ones, schema = [1] * 5, schema_of(WEIGHTS)
    defended = RoundUpdates(
        stored(tensors, ones), schema=schema, scratch=tmp_path, defence=Halving()
    )
    plain = RoundUpdates(stored(halves, ones), schema=schema, scratch=tmp_path)
    strategy = strategy_of(Choice(name=name))
    assert same(strategy.fold(defended), strategy.fold(plain))


@pytest.mark.parametrize("name", NAMES)
@settings(settings.get_profile("files"), max_examples=25)
@given(case=rounds(), data=st.data())
def test_the_order_of_arrival_changes_no_bit(name, tmp_path, case, data):
    updates = stored(*case)
    shuffled = data.draw(st.permutations(updates))
    assert same(folded(name, updates, tmp_path), folded(name, shuffled, tmp_path))


@pytest.mark.parametrize("name", NAMES)
@settings(settings.get_profile("files"), max_examples=25)
@given(case=rounds(max_size=1))
def test_of_one_client_comes_its_own_update(name, tmp_path, case):
    tensors = case[0][0]
    direction = folded(name, stored(*case), tmp_path)
    for key, tensor in tensors.items():
        assert direction[key].dtype == np.float64
        assert np.array_equal(direction[key], tensor)


@pytest.mark.parametrize("name", NAMES)
@settings(settings.get_profile("files"), max_examples=25)
@given(case=rounds())
def test_a_gradient_is_a_change_downhill(name, tmp_path, case):
    tensors, n_examples = case
    negated = [{k: -t for k, t in each.items()} for each in tensors]
    as_delta = folded(name, stored(tensors, n_examples), tmp_path)
    as_gradient = folded(name, stored(negated, n_examples, kind="gradient"), tmp_path)
    assert all(np.array_equal(as_delta[k], as_gradient[k]) for k in as_delta)


@pytest.mark.parametrize("name", NAMES)
@settings(settings.get_profile("files"), max_examples=25)
@given(case=rounds())
def test_every_value_stays_within_what_clients_sent(name, tmp_path, case):
    direction = folded(name, stored(*case), tmp_path)
    for key in WEIGHTS:
        stack = np.stack([t[key].astype(np.float64) for t in case[0]])
        assert np.all(direction[key] >= stack.min(axis=0) - 1e-12)
        assert np.all(direction[key] <= stack.max(axis=0) + 1e-12)


@pytest.mark.parametrize("name", NAMES)
@settings(settings.get_profile("files"), max_examples=15)
@given(case=rounds())
def test_state_survives_its_artefact_and_stays_in_shape(name, tmp_path, case):
    strategy = strategy_of(Choice(name=name))
    weights, state = WEIGHTS, strategy.init(WEIGHTS)
    kept_weights, kept = weights, state
    for _ in range(3):
        direction = folded(name, stored(*case), tmp_path)
        weights, state = strategy.finish(weights, state, direction)
        kept_weights = unpack_weights(pack_weights(kept_weights))
        kept = unpack_weights(pack_weights(kept))
        kept_weights, kept = strategy.finish(kept_weights, kept, direction)
        assert schema_of(weights) == schema_of(WEIGHTS)
        assert all(t.dtype == np.float32 for t in [*weights.values(), *state.values()])
        assert same(weights, kept_weights)
        assert same(dict(sorted(state.items())), dict(sorted(kept.items())))


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedsgd", "fedadam"])
@settings(settings.get_profile("files"), max_examples=40)
@given(case=rounds())
def test_means_are_the_float64_mean(name, tmp_path, case):
    tensors, n_examples = case
    direction = folded(name, stored(*case), tmp_path)
    for key in WEIGHTS:
        wanted = np.average([t[key].astype(float) for t in tensors], axis=0, weights=n_examples)
        np.testing.assert_allclose(direction[key], wanted, rtol=1e-12, atol=1e-14)


@settings(settings.get_profile("files"), max_examples=40)
@given(case=rounds())
def test_median_is_the_middle_of_each_coordinate(tmp_path, case):
    direction = folded("median", stored(*case), tmp_path)
    for key, tensor in WEIGHTS.items():
        for index in np.ndindex(tensor.shape):
            column = sorted(float(t[key][index]) for t in case[0])
            middle = column[(len(column) - 1) // 2], column[len(column) // 2]
            assert direction[key][index] == sum(middle) / 2


@settings(settings.get_profile("files"), max_examples=40)
@given(case=rounds(), trim=st.floats(0, 0.49))
def test_trimmed_mean_drops_both_ends(tmp_path, case, trim):
    direction = folded("trimmed-mean", stored(*case), tmp_path, trim=trim)
    for key, tensor in WEIGHTS.items():
        for index in np.ndindex(tensor.shape):
            column = sorted(float(t[key][index]) for t in case[0])
            n_dropped = int(trim * len(column))
            kept = column[n_dropped : len(column) - n_dropped]
            assert direction[key][index] == pytest.approx(sum(kept) / len(kept), abs=1e-12)


@settings(settings.get_profile("files"), max_examples=40)
@given(case=rounds(min_size=2), n_byzantine=st.integers(0, 2))
def test_krum_chooses_the_best_surrounded(tmp_path, case, n_byzantine):
    tensors, _ = case
    flat = [
        np.concatenate([t[k].reshape(-1) for k in sorted(WEIGHTS)]).astype(float) for t in tensors
    ]
    n_neighbours = max(1, len(flat) - n_byzantine - 2)
    scores = []
    for i, mine in enumerate(flat):
        others = sorted(sum((mine - o) ** 2) for j, o in enumerate(flat) if j != i)
        scores.append(sum(others[:n_neighbours]))
    direction = folded("krum", stored(*case), tmp_path, n_byzantine=n_byzantine)
    chosen = np.concatenate([direction[k].reshape(-1) for k in sorted(WEIGHTS)])
    best = [f for f, s in zip(flat, scores, strict=True) if s <= min(scores) * (1 + 1e-9) + 1e-12]
    assert any(np.array_equal(chosen, f) for f in best)


def test_krum_never_follows_a_lonely_liar(tmp_path):
    rng = np.random.default_rng(0)
    crowd = [
        {k: rng.normal(1, 0.01, t.shape).astype(np.float32) for k, t in WEIGHTS.items()}
        for _ in range(4)
    ]
    liar = {k: np.full(t.shape, 1e6, np.float32) for k, t in WEIGHTS.items()}
    for place in range(5):
        tensors = [*crowd[:place], liar, *crowd[place:]]
        direction = folded("krum", stored(tensors, [1, 1, 1, 1, 1]), tmp_path, n_byzantine=1)
        assert max(np.abs(t).max() for t in direction.values()) < 2


@settings(max_examples=40)
@given(steps=st.lists(arrays(np.float64, (3,), elements=st.floats(-2, 2)), min_size=1, max_size=5))
def test_fedadam_is_reddi_s_algorithm_2(steps):
    strategy = means.FedAdam(learning_rate=0.05, beta1=0.9, beta2=0.99, tau=1e-2)
    weights = {"x": np.zeros(3, np.float32)}
    state = strategy.init(weights)
    x, m, v = np.zeros(3), np.zeros(3), np.full(3, 1e-4)
    for step in steps:
        weights, state = strategy.finish(weights, state, {"x": step})
        for i in range(3):
            m[i] = 0.9 * m[i] + 0.1 * step[i]
            v[i] = 0.99 * v[i] + 0.01 * step[i] ** 2
            x[i] += 0.05 * m[i] / (v[i] ** 0.5 + 1e-2)
    np.testing.assert_allclose(weights["x"], x, rtol=1e-4, atol=1e-5)


def test_blocks_of_any_size_give_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    tensors = [
        {k: rng.normal(size=t.shape).astype(np.float32) for k, t in WEIGHTS.items()}
        for _ in range(5)
    ]
    updates = stored(tensors, [1, 2, 3, 4, 5])
    for name, size in itertools.product(["median", "trimmed-mean", "krum"], [5, 17, 64]):
        whole = folded(name, updates, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(base, "_BLOCK_VALUES", size)
            assert same(whole, folded(name, updates, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_names_itself():
    for name, options in [
        ("fedadam", {"beta1": 1.0}),
        ("trimmed-mean", {"trim": 0.5}),
        ("krum", {"n_byzantine": -1}),
        ("fedavg", {"learning_rate": 0.0}),
    ]:
        with pytest.raises(ConfigError, match=next(iter(options))):
            strategy_of(Choice(name=name, options=options))
