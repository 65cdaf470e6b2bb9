"""The bounds against simulations with the defences themselves, and against finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedcore.defences.clip import Clip
from fedcore.defences.compress import Qsgd
from fedcore.defences.dp_sgd import DpSgd
from fedcore.defences.laplace import Laplace
from fedcore.plan import Choice
from fedcore.seeds import stream
from fedcore.types import Missing
from testbed.cramer_rao import Bound, Sent, bound_behind
from testbed.mechanism import Mechanism, mechanism_of

N_INPUTS, N_PARAMETERS = 3, 40
SIZES = (25, 15)


def defence(name: str, **options: Any) -> Choice:
    return Choice(name=name, options=options)


G = defence("gaussian", std=0.3)
DP = {"max_norm": 0.5, "noise_multiplier": 2.0, "batch_size": 4}


@pytest.mark.parametrize(
    ("choices", "names", "sigma"),
    [
        ([defence("gaussian", std=0.2)], ("gaussian",), 0.2),
        ([defence("laplace", scale=0.3)], ("laplace",), 0.3),
        ([defence("dp-sgd", **DP)], ("dp-sgd",), 0.25),
        ([defence("clip", max_norm=1.0), defence("gaussian", std=0.2)], ("gaussian",), 0.2),
        ([G, defence("laplace", scale=0.4)], ("gaussian", "laplace"), 0.5),
        ([G, defence("sign"), G], ("gaussian",), 0.3),
        ([defence("gaussian", std=0.0), defence("laplace", scale=0.3)], ("laplace",), 0.3),
        ([defence("topk"), defence("gaussian", std=0.2)], ("gaussian",), 0.2),
        ([defence("qsgd", levels=7), defence("gaussian", std=0.2)], ("qsgd",), 0.0),
    ],
)  # fmt: skip
def test_the_first_draw_counts_and_the_noise_behind_it(choices, names, sigma: float) -> None:
    found = mechanism_of(choices)
    assert isinstance(found, Mechanism)
    assert found.names == names
    assert found.sigma == pytest.approx(sigma)
    assert found.levels == (7 if names == ("qsgd",) else 0)


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ([], "no defence adds noise"),
        ([defence("clip"), defence("topk")], "no defence adds noise"),
        ([defence("gaussian", std=0.0)], "no defence adds noise"),
        ([defence("sign"), defence("gaussian", std=0.2)], "behind what 'sign' does"),
        ([defence("dp-sgd", **DP), defence("dp-sgd", **DP)], "clipped twice"),
        ([defence("gaussian", std=0.2), defence("precode")], "behind what 'precode' does"),
        ([G, defence("soteria")], "behind what 'soteria' does"),
        ([defence("topk"), defence("clip"), defence("qsgd")], "cut and then clipped"),
    ],
)
def test_where_no_bound_is_known_there_is_none(choices, why: str) -> None:
    found = mechanism_of(choices)
    assert isinstance(found, Missing)
    assert why in found.why


def test_a_clip_counts_only_where_nothing_was_cut_before() -> None:
    clip, cut, noise = defence("clip", max_norm=0.5), defence("topk"), defence("gaussian", std=0.2)
    for choices, max_norm in (
        ([clip, noise], 0.5),
        ([clip, cut, noise], 0.5),
        ([cut, clip, noise], math.inf),
        ([noise, clip], math.inf),
    ):
        found = mechanism_of(choices)
        assert isinstance(found, Mechanism)
        assert found.max_norm == max_norm


def affine() -> Sent:
    """An update that is affine in the input: clipping would hide the length of a linear one."""
    rng = stream(1, "affine")
    rows = rng.normal(size=(N_INPUTS, N_PARAMETERS))
    return Sent(rows=rows, update=rng.normal(size=N_PARAMETERS), sizes=SIZES)


def bound_of(mechanism: Mechanism, sent: Sent) -> Bound:
    one = sent.update[None]
    owners = np.zeros(N_INPUTS, np.int64)
    found = bound_behind(mechanism, sent, examples=one, owners=owners)
    assert isinstance(found, Bound)
    return found


def test_clipped_rows_are_those_of_finite_differences() -> None:
    sent = affine()
    clip, step = Clip(max_norm=0.7), 1e-3

    def clipped(x: np.ndarray) -> np.ndarray:
        return clip.update({"u": sent.update + x @ sent.rows}, stream(0))["u"]

    rows = np.stack(
        [(clipped(step * e) - clipped(-step * e)) / (2 * step) for e in np.eye(N_INPUTS)]
    )
    oracle = np.diag(np.linalg.inv(rows @ rows.T / 0.1**2))
    found = bound_of(Mechanism(names=("gaussian",), max_norm=0.7, sigma=0.1), sent)
    np.testing.assert_allclose(found.least_mse, oracle, rtol=1e-3)
    free = bound_of(Mechanism(names=("gaussian",), sigma=0.1), sent)
    assert (found.least_mse > free.least_mse).all()


def test_clipped_examples_are_those_of_finite_differences() -> None:
    """Three examples, of which two are too long; the batch size is the option's."""
    rng = stream(2, "examples")
    own = rng.normal(size=(3, 2, N_PARAMETERS))  # [example, value, parameter]
    offsets = rng.normal(size=(3, N_PARAMETERS)) * [[0.02], [1.0], [3.0]]
    dp, step = DpSgd(max_norm=0.5, noise_multiplier=1.0, batch_size=4), 1e-4

    def gradients(x: np.ndarray) -> np.ndarray:
        return offsets + np.einsum("ev,evp->ep", x, own)

    def sent(x: np.ndarray) -> np.ndarray:
        return dp.example_gradients({"u": gradients(x)})["u"].mean(axis=0)

    rows = []
    for unit in np.eye(6).reshape(6, 3, 2):
        rows.append((sent(step * unit) - sent(-step * unit)) / (2 * step))
    oracle = np.diag(np.linalg.inv(np.stack(rows) @ np.stack(rows).T / dp.sigma**2))
    jacobian = np.zeros((6, N_PARAMETERS))
    jacobian[np.arange(6)] = own.reshape(6, -1) / 3  # of the mean over three examples
    mean = Sent(rows=jacobian, update=offsets.mean(axis=0), sizes=SIZES)
    found = bound_behind(
        Mechanism(names=("dp-sgd",), per_example=dp, sigma=dp.sigma),
        mean,
        examples=offsets,
        owners=np.repeat(np.arange(3), 2),
    )
    assert isinstance(found, Bound)
    np.testing.assert_allclose(found.least_mse, oracle, rtol=2e-2)


def test_laplace_noise_is_bounded_by_its_scale_and_not_by_its_deviation() -> None:
    """One input seen by many values: the median is efficient, the mean has twice the error."""
    n, scale = 401, 0.3
    sent = Sent(rows=np.ones((1, n)), update=np.full(n, 0.4), sizes=(n,))
    mechanism = mechanism_of([defence("laplace", scale=scale)])
    assert isinstance(mechanism, Mechanism)
    found = bound_behind(mechanism, sent, examples=sent.update[None], owners=np.zeros(1, np.int64))
    assert isinstance(found, Bound)
    least = found.least_mse[0]
    assert least == pytest.approx(scale**2 / n)
    noisy = Laplace(scale=scale).update({"u": np.full((4000, n), 0.4)}, stream(3, "laplace"))["u"]
    assert np.mean((np.median(noisy, axis=1) - 0.4) ** 2) == pytest.approx(least, rel=0.12)
    assert np.mean((noisy.mean(axis=1) - 0.4) ** 2) == pytest.approx(2 * least, rel=0.08)


def test_rounding_is_bounded_by_its_coins_and_by_what_is_sent_exactly() -> None:
    """The estimator that is efficient there, from values that the defence itself has rounded."""
    sent = affine()
    levels = 4
    found = bound_of(Mechanism(names=("qsgd",), levels=levels), sent)
    parts = np.split(sent.update, [SIZES[0]])
    qsgd, rng = Qsgd(levels=levels), stream(4, "qsgd")
    seen = np.stack(
        [
            np.concatenate(list(qsgd.update({"a": parts[0], "b": parts[1]}, rng).values()))
            for _ in range(20_000)
        ]
    )
    np.testing.assert_allclose(seen.mean(axis=0), sent.update, atol=0.05)  # without bias
    steps = np.repeat([np.abs(part).max() / levels for part in parts], SIZES)
    share = sent.update / steps - np.floor(sent.update / steps)
    variance = steps**2 * share * (1 - share)
    largest = [int(np.abs(parts[0]).argmax()), SIZES[0] + int(np.abs(parts[1]).argmax())]
    assert (seen[:, largest].std(axis=0) < 1e-6).all()
    free = np.linalg.svd(sent.rows[:, largest].T)[2][2:].T  # what the two leave alone
    drawn = np.setdiff1d(np.arange(N_PARAMETERS), largest)
    weighted = sent.rows[:, drawn] / variance[drawn]
    inner = free.T @ weighted @ sent.rows[:, drawn].T @ free
    errors = (seen - sent.update)[:, drawn] @ weighted.T @ free @ np.linalg.inv(inner) @ free.T
    np.testing.assert_allclose(np.mean(errors**2, axis=0), found.least_mse, rtol=0.08)
    assert isinstance(found.information, Missing)


def test_the_information_of_rounding_is_that_of_its_likelihood() -> None:
    """Two inputs, one tensor: the score by finite differences of the log-likelihood."""
    rng = stream(5, "likelihood")
    rows = rng.normal(size=(2, 30))
    rows[:, 0] = [0.0, 9.0]  # the largest value tells the second input
    at, levels, h = np.array([0.3, 0.8]), 5, 1e-6
    update = at @ rows
    step = np.abs(update).max() / levels
    q = np.floor(update / step + rng.random((20_000, 30)))

    def log_likelihood(x: np.ndarray) -> np.ndarray:
        place = (x @ rows)[1:] / step
        up = np.clip(place - np.floor(update[1:] / step), 1e-12, 1 - 1e-12)
        is_up = q[:, 1:] > np.floor(update[1:] / step)
        return np.where(is_up, np.log(up), np.log(1 - up)).sum(axis=1)

    e = np.array([h, 0.0])
    score = (log_likelihood(at + e) - log_likelihood(at - e)) / (2 * h)
    found = bound_behind(
        Mechanism(names=("qsgd",), levels=levels),
        Sent(rows=rows, update=update, sizes=(30,)),
        examples=update[None],
        owners=np.zeros(2, np.int64),
    )
    assert isinstance(found, Bound)
    assert found.least_mse[0] == pytest.approx(1 / np.mean(score**2), rel=0.05)
    assert found.least_mse[1] < 1e-12 * found.least_mse[0]  # sent exactly


def test_an_update_that_tells_an_input_exactly_leaves_no_error() -> None:
    rows = np.eye(3)
    sent = Sent(rows=rows, update=np.array([0.0, 0.5, 1.0]), sizes=(3,))
    found = bound_of(Mechanism(names=("qsgd",), levels=2), sent)
    np.testing.assert_allclose(found.least_mse, 0, atol=1e-12)


def test_noise_twice_as_large_bounds_four_times_as_much() -> None:
    sent = affine()
    one, two = (bound_of(Mechanism(names=("gaussian",), sigma=s), sent) for s in (0.1, 0.2))
    np.testing.assert_allclose(two.least_mse, 4 * one.least_mse)
    assert one.information == pytest.approx(4 * two.information)
    assert math.isfinite(one.information)
