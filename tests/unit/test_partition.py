"""What is particular to each partition."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore.data.partition import ByClass, BySubject, Dirichlet, Iid
from fedcore.errors import ConfigError
from fedcore.seeds import stream

LABELS = np.repeat(np.arange(10), 100)


def histograms(shares: list[np.ndarray]) -> np.ndarray:
    """Counts [client, class]."""
    return np.stack([np.bincount(LABELS[share], minlength=10) for share in shares])


def skew(alpha: float, *, seed: int) -> float:
    """Mean distance in total variation between a client's label mix and everybody's."""
    shares = Dirichlet(alpha=alpha).split(LABELS, None, n_clients=5, rng=stream(seed))
    counts = histograms(shares)
    mix = counts / counts.sum(axis=1, keepdims=True)
    return float(np.mean(np.abs(mix - 0.1).sum(axis=1) / 2))


def test_iid_shares_differ_by_one_at_most() -> None:
    sizes = [len(s) for s in Iid().split(LABELS, None, n_clients=7, rng=stream(0))]
    assert max(sizes) - min(sizes) <= 1


def test_dirichlet_skew_grows_as_alpha_falls() -> None:
    means = [np.mean([skew(alpha, seed=s) for s in range(10)]) for alpha in (100, 1, 0.1)]
    assert means[0] < 0.1 < means[1] < means[2]


def test_dirichlet_says_when_a_client_stays_empty() -> None:
    with pytest.raises(ConfigError, match=r"alpha 0\.001 .* left \d+ of 50 clients without data"):
        Dirichlet(alpha=0.001).split(LABELS, None, n_clients=50, rng=stream(0))


@pytest.mark.parametrize(("n_clients", "classes"), [(5, 2), (4, 3), (10, 1), (3, 10), (7, 4)])
def test_by_class_gives_exactly_so_many_classes(n_clients: int, classes: int) -> None:
    partition = ByClass(classes_per_client=classes)
    counts = histograms(partition.split(LABELS, None, n_clients=n_clients, rng=stream(0)))
    assert ((counts > 0).sum(axis=1) == classes).all()
    for of_class in counts.T:  # holders of a class get equal parts of it
        held = of_class[of_class > 0]
        assert held.max() - held.min() <= 1


@pytest.mark.parametrize(("n_clients", "classes"), [(4, 2), (2, 11)])
def test_by_class_says_what_would_do(n_clients: int, classes: int) -> None:
    with pytest.raises(ConfigError, match=r"must lie in \[\d, 10\]"):
        ByClass(classes_per_client=classes).split(LABELS, None, n_clients=n_clients, rng=stream(0))


def test_by_subject_never_splits_a_person() -> None:
    subjects = stream(0).integers(100, 130, len(LABELS))
    shares = BySubject().split(LABELS, subjects, n_clients=4, rng=stream(1))
    people = [set(subjects[share]) for share in shares]
    assert sum(map(len, people)) == len(set.union(*people)) == len(np.unique(subjects))


def test_by_subject_needs_subjects() -> None:
    with pytest.raises(ConfigError, match="needs a data set with subjects"):
        BySubject().split(LABELS, None, n_clients=4, rng=stream(0))


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="alpha must be > 0"):
        Dirichlet(alpha=0.0)
    with pytest.raises(ConfigError, match="classes_per_client must be >= 1"):
        ByClass(classes_per_client=0)
