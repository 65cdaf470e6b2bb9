"""What every registered partition promises, whoever wrote it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.data.partition import PARTITIONS
from fedcore.errors import ConfigError
from fedcore.plan import Choice
from fedcore.seeds import stream
from fedcore.strict import build

pytestmark = pytest.mark.parametrize("name", PARTITIONS.names())


def split(name: str, *, n: int, n_clients: int, seed: int) -> list[np.ndarray]:
    labels = stream(seed, "labels").integers(0, 10, n)
    subjects = stream(seed, "subjects").integers(0, 15, n)
    partition = build(PARTITIONS, Choice(name=name))
    return partition.split(labels, subjects, n_clients=n_clients, rng=stream(seed, "partition"))


@settings(deadline=None)
@given(n=st.integers(200, 400), n_clients=st.integers(5, 12), seed=st.integers(0, 99))
def test_shares_are_disjoint_complete_and_not_empty(
    name: str, n: int, n_clients: int, seed: int
) -> None:
    shares = split(name, n=n, n_clients=n_clients, seed=seed)
    assert len(shares) == n_clients
    assert all(len(share) for share in shares)
    assert all((np.diff(share) > 0).all() for share in shares)
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(n))
    assert all(share.dtype == np.int64 for share in shares)


def test_the_seed_decides(name: str) -> None:
    def flat(seed: int) -> list[list[int]]:
        return [share.tolist() for share in split(name, n=300, n_clients=5, seed=seed)]

    assert flat(1) == flat(1)
    assert flat(1) != flat(2)


def test_more_clients_than_examples_is_one_clear_line(name: str) -> None:
    with pytest.raises(ConfigError, match="clients"):
        split(name, n=3, n_clients=5, seed=0)
