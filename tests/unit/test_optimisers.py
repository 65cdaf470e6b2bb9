"""Batched optimisers against scipy, and their promise that rows do not know of each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
scipy_optimize = pytest.importorskip("scipy.optimize")

from attacker.optimisers import Evaluate, adam, flip_spikes, lbfgs, signed_adam  # noqa: E402
from attacker.optimisers.history import History  # noqa: E402

pytestmark = pytest.mark.torch


def evaluating(function) -> Evaluate:
    """Losses and gradients of a function [row, variable] -> [row], by autograd."""

    def evaluate(x):
        x = x.detach().requires_grad_()
        losses = function(x)
        (slopes,) = torch.autograd.grad(losses.sum(), x)
        return losses.detach(), slopes

    return evaluate


def rosenbrock(x):
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def quadratics(n_rows: int, n_variables: int, *, condition: float):
    """One convex quadratic per row, and its minimum."""
    generator = torch.Generator().manual_seed(3)
    draw = torch.randn(n_rows, n_variables, n_variables, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(draw).Q
    eigenvalues = torch.logspace(0, math.log10(condition), n_variables, dtype=torch.float64)
    curvature = basis @ torch.diag(eigenvalues) @ basis.transpose(1, 2)
    minimum = torch.randn(n_rows, n_variables, generator=generator, dtype=torch.float64)

    def function(x):
        away = x - minimum
        return 0.5 * torch.einsum("ri,rij,rj->r", away, curvature, away)

    return function, minimum


def found_by_lbfgs(function, start, *, n_evaluations, memory=10):
    return lbfgs(
        evaluating(function),
        start,
        n_evaluations=n_evaluations,
        memory=memory,
        on_evaluation=lambda *_: None,
    )


def test_lbfgs_finds_the_minimum_of_every_quadratic() -> None:
    function, minimum = quadratics(7, 12, condition=1e3)
    found = found_by_lbfgs(function, torch.zeros(7, 12, dtype=torch.float64), n_evaluations=300)
    torch.testing.assert_close(found.candidates, minimum, atol=1e-6, rtol=0)


@pytest.mark.parametrize("memory", [1, 3, 100])
def test_directions_are_those_of_the_two_loop_recursion(memory: int) -> None:
    """Oracle: Algorithm 7.4 of Nocedal and Wright 2006, one row after the other."""
    draw = torch.Generator().manual_seed(0)
    n_rows, n_variables = 3, 20
    root = torch.randn(n_variables, n_variables, generator=draw, dtype=torch.float64)
    hessian = root @ root.T / n_variables + 0.1 * torch.eye(n_variables)
    x = torch.randn(n_rows, n_variables, generator=draw, dtype=torch.float64)
    history, pairs = History(x, memory=memory), [[] for _ in range(n_rows)]
    for step in range(15):
        s = 0.1 * torch.randn(x.shape, generator=draw, dtype=torch.float64)
        rows = torch.rand(n_rows, generator=draw) < 0.7
        y = s @ hessian
        x = torch.where(rows[:, None], x + s, x)
        slope = x @ hessian
        history.push(rows, s, y, slope=slope)
        for row in rows.nonzero():
            pairs[row] = [*pairs[row], (s[row][0], y[row][0])][-memory:]
        if step == 9:
            history.forget(torch.tensor([True, False, False]))
            pairs[0] = []
        expected = torch.stack([-two_loops(g, p) for g, p in zip(slope, pairs, strict=True)])
        torch.testing.assert_close(history.direction(slope), expected)


def two_loops(gradient, pairs):
    q, weights = gradient, []
    for s, y in reversed(pairs):
        weights.append((s @ q) / (s @ y))
        q = q - weights[-1] * y
    s, y = pairs[-1] if pairs else (gradient, gradient)
    r = q * (s @ y) / (y @ y)
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        r = r + (weight - (y @ r) / (s @ y)) * s
    return r


@pytest.mark.parametrize("n_variables", [2, 10])
def test_lbfgs_needs_about_as_many_evaluations_as_scipy(n_variables: int) -> None:
    rng = np.random.default_rng(0)
    starts = rng.uniform(-1.5, 1.5, (5, n_variables))
    budget = 0
    for start in starts:
        peer = scipy_optimize.minimize(
            scipy_optimize.rosen,
            start,
            jac=scipy_optimize.rosen_der,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-8},
        )
        budget = max(budget, peer.nfev)
    found = found_by_lbfgs(rosenbrock, torch.tensor(starts), n_evaluations=2 * budget)
    lowest = torch.tensor([0.0] * 5, dtype=torch.float64)
    local = rosenbrock(found.candidates)
    # In ten dimensions there is a second, local minimum near x[0] = -1 with a loss just below 4.
    near_local = (local > 3.9) & (found.candidates[:, 0] < 0)
    torch.testing.assert_close(local.where(~near_local, lowest), lowest, atol=1e-8, rtol=0)
    assert not near_local.all()


def test_lbfgs_agrees_with_torch_on_where_a_row_ends() -> None:
    function, _ = quadratics(1, 6, condition=50)
    peer = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [peer], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def closure():
        optimiser.zero_grad()
        loss = function(peer).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    found = found_by_lbfgs(function, torch.zeros(1, 6, dtype=torch.float64), n_evaluations=100)
    torch.testing.assert_close(found.candidates, peer.detach(), atol=1e-6, rtol=0)


def test_a_row_takes_its_own_way_whoever_is_beside_it() -> None:
    starts = torch.tensor([[-1.2, 1.0], [0.5, -0.5], [1.4, 1.4]], dtype=torch.float64)
    together = found_by_lbfgs(rosenbrock, starts, n_evaluations=40)
    for i, start in enumerate(starts):
        alone = found_by_lbfgs(rosenbrock, start[None], n_evaluations=40)
        assert torch.equal(alone.candidates[0], together.candidates[i])
        assert alone.losses[0] == together.losses[i]


def test_lbfgs_steps_back_from_where_the_loss_is_not_finite() -> None:
    def barrier(x):
        return (x - torch.log(x)).sum(1)  # NaN for x < 0, lowest at x = 1

    found = found_by_lbfgs(barrier, torch.full((1, 3), 0.01), n_evaluations=200)
    torch.testing.assert_close(found.candidates, torch.ones(1, 3), atol=1e-3, rtol=0)


def test_lbfgs_stops_when_every_row_rests() -> None:
    function, minimum = quadratics(2, 3, condition=2)
    found = found_by_lbfgs(function, minimum, n_evaluations=100)
    assert found.n_evaluations == 1


def test_adam_matches_torch_on_signed_gradients() -> None:
    function, _ = quadratics(4, 5, condition=10)
    start = torch.zeros(4, 5, dtype=torch.float64)
    seen = []

    def evaluate(x):
        seen.append(x)
        return evaluating(function)(x)

    n = 16
    signed_adam(
        evaluate,
        start,
        n_evaluations=n,
        learning_rate=0.1,
        low=-0.5,
        high=0.5,
        on_evaluation=lambda *_: None,
    )
    peer = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([peer], lr=0.1)
    falls = torch.optim.lr_scheduler.MultiStepLR(optimiser, [6, 10, 14], gamma=0.1)
    for candidate in seen:
        torch.testing.assert_close(candidate, peer.detach())
        optimiser.zero_grad()
        function(peer).sum().backward()
        peer.grad.sign_()
        optimiser.step()
        falls.step()
        peer.data.clamp_(-0.5, 0.5)


@pytest.mark.parametrize("optimiser", ["adam", "lbfgs"])
def test_the_kept_loss_is_that_of_the_kept_candidate(optimiser: str) -> None:
    def bumpy(x):
        return (torch.sin(5 * x) + 0.3 * x**2).sum(1)

    start = torch.linspace(-3, 3, 24).reshape(8, 3)
    told = []
    if optimiser == "adam":
        found = signed_adam(
            evaluating(bumpy),
            start,
            n_evaluations=60,
            learning_rate=0.3,
            low=-3,
            high=3,
            on_evaluation=lambda n, losses: told.append((n, losses)),
        )
    else:
        found = lbfgs(
            evaluating(bumpy),
            start,
            n_evaluations=60,
            memory=5,
            on_evaluation=lambda n, losses: told.append((n, losses)),
        )
    assert torch.equal(bumpy(found.candidates), found.losses)
    assert [n for n, _ in told] == list(range(1, found.n_evaluations + 1))
    assert torch.equal(told[-1][1], found.losses)
    assert bool((found.curves.diff(dim=1) <= 0).all())
    assert torch.equal(found.curves[:, -1], found.losses)


def test_adam_is_torchs_with_a_falling_rate() -> None:
    """Oracle: torch's own Adam and its schedule, where the box is not in the way."""
    start, n = torch.full((1, 4), 3.0, dtype=torch.float64), 50
    seen = []

    def watched(x):
        seen.append(x)
        return evaluating(rosenbrock)(x)

    adam(
        watched,
        start,
        n_evaluations=n,
        learning_rate=0.2,
        low=-9,
        high=9,
        on_evaluation=lambda *_: None,
    )
    x = start.clone().requires_grad_()
    theirs = torch.optim.Adam([x], lr=0.2, eps=1e-12)
    rates = torch.optim.lr_scheduler.LambdaLR(
        theirs, lambda k: (1 + math.cos(math.pi * (k + 1) / n)) / 2
    )
    for ours in seen:
        torch.testing.assert_close(ours, x.detach())
        theirs.zero_grad()
        rosenbrock(x).sum().backward()
        theirs.step()
        rates.step()


def test_noise_moves_adam_by_the_rate_of_each_step() -> None:
    """On a flat loss nothing else does; the box is out of reach."""
    drawn = torch.tensor([[0.5, -1.0], [2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    steps, passed = iter(drawn), []

    def flat(x):
        passed.append(x)
        return torch.zeros(1, dtype=x.dtype), torch.zeros_like(x)

    adam(
        flat,
        torch.zeros(1, 2, dtype=torch.float64),
        n_evaluations=3,
        learning_rate=0.1,
        low=-9,
        high=9,
        on_evaluation=lambda *_: None,
        noise=lambda: next(steps)[None],
    )
    rates = 0.05 * (1 + torch.cos(math.pi * torch.arange(1, 3, dtype=torch.float64) / 3))
    expected = -(rates[:, None] * drawn[:2]).cumsum(0)
    torch.testing.assert_close(torch.cat(passed[1:]), expected)


def test_adam_stays_in_the_box() -> None:
    seen = []

    def evaluate(x):
        seen.append(x)
        return (x - 2).square().sum(1), 2 * (x - 2)

    found = adam(
        evaluate,
        torch.tensor([[5.0, -5.0]]),
        n_evaluations=60,
        learning_rate=0.3,
        low=0.0,
        high=1.0,
        on_evaluation=lambda *_: None,
    )
    assert found.candidates.tolist() == [[1.0, 1.0]]
    assert all(0 <= float(x.min()) <= float(x.max()) <= 1 for x in seen)


@pytest.mark.parametrize("patience", [None, 30])
def test_a_search_ends_when_no_row_gets_any_further(patience: int | None) -> None:
    """One row stands still at once, the other for the last time after 40 evaluations."""
    n_seen = 0

    def evaluate(x):
        nonlocal n_seen
        n_seen += 1
        falling = max(0.0, 40.0 - n_seen) + 1 - 1e-6 * n_seen  # and creeps on
        return torch.tensor([5.0, falling]), torch.ones_like(x)

    def told(*_) -> None:
        pass

    start, share = torch.zeros(2, 3), {"share": 0.5, "blind_share": 0.5}
    searches = {
        "signed adam": lambda **shared: signed_adam(
            evaluate, start, learning_rate=0.1, low=0, high=1, **shared
        ),
        "smooth adam": lambda **shared: adam(
            evaluate, start, learning_rate=0.1, low=0, high=1, **shared
        ),
        "flips": lambda **shared: flip_spikes(
            evaluate, start, draw=lambda: torch.ones(2, 3), **share, **shared
        ),
    }
    for search in searches.values():
        n_seen = 0
        found = search(n_evaluations=200, patience=patience, on_evaluation=told)
        assert found.n_evaluations == n_seen == (200 if patience is None else 40 + patience)


def test_lbfgs_ends_when_no_row_gets_any_further() -> None:
    function, _ = quadratics(3, 8, condition=100.0)
    start = torch.zeros(3, 8, dtype=torch.float64)
    shared = {"memory": 5, "on_evaluation": lambda *_: None}
    shifted = evaluating(lambda x: function(x) + 1)  # so that the last digits are not progress
    patient = lbfgs(shifted, start, n_evaluations=300, **shared)
    hasty = lbfgs(shifted, start, n_evaluations=300, patience=10, **shared)
    assert hasty.n_evaluations < patient.n_evaluations
    torch.testing.assert_close(hasty.losses, patient.losses, rtol=2e-2, atol=0)
