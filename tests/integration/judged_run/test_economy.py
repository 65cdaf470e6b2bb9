"""Joules against what they bought, on a run whose numbers are set by hand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from fedcore.energy import Boundary
from fedcore.types import Missing
from testbed.costs import MeasuredEnergy, RoundCost
from testbed.economy import Price, contests, front, prices
from testbed.judge import judge
from testbed.results import ArmResults, load_results


def spending(arm: ArmResults, factor: float, *, spread: float = 1.1) -> ArmResults:
    """The arm, had every update cost `factor` modelled joules within `spread`."""
    costs = {ticket: _cost(cost, factor, spread=spread) for ticket, cost in arm.costs.items()}
    twin = replace(arm)
    twin.__dict__["costs"] = costs  # in the place of the cached property
    return twin


def _cost(cost: RoundCost, joules: float, *, spread: float) -> RoundCost:
    assert not isinstance(cost.modelled, Missing)
    modelled = replace(
        cost.modelled, energy_j=joules, low_j=joules / spread, high_j=joules * spread
    )
    return replace(cost, modelled=modelled)


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory, build: Callable) -> Sequence[ArmResults]:
    world = build(tmp_path_factory.mktemp("economy"))
    judge(world.run, world.private)
    return load_results(world.run).arms


MEASURED = MeasuredEnergy(
    energy_j=2.0,
    uncertainty_j=0.1,
    boundary=Boundary.CPU_PACKAGE,
    meter="rapl 1",
    flags=("shared(3)",),
)


def measured(arm: ArmResults) -> ArmResults:
    """The arm, had one meter measured all its clients."""
    twin = replace(arm)
    costs = {ticket: replace(cost, measured=MEASURED) for ticket, cost in arm.costs.items()}
    twin.__dict__["costs"] = costs
    return twin


def test_a_price_is_the_joules_over_the_units(arms: Sequence[ArmResults]) -> None:
    arm = spending(arms[0], 6.0)
    found = prices(arm)
    n_clients = len({ticket.client_id for ticket in arm.costs})
    assert found["client-round"].value_j == pytest.approx(6.0)
    assert found["round"].value_j == pytest.approx(6.0 * n_clients)
    assert found["sample"].value_j == pytest.approx(6.0 / arm.arm.training.batch_size)
    share = arm.accuracies[-1].share
    points = 100 * (share.n_yes / share.n - 1 / arm.arm.model.n_classes)
    assert found["point of accuracy"].value_j == pytest.approx(6.0 * len(arm.costs) / points)
    assert {price.kind for price in found.values()} == {"modelled"}


def test_intervals_divide_opposite_ends(arms: Sequence[ArmResults]) -> None:
    leaked = prices(spending(arms[0], 6.0))["dB leaked"]
    assert isinstance(leaked, Price)
    assert leaked.low_j < leaked.value_j / 1.1
    assert leaked.high_j > leaked.value_j * 1.1
    assert math.isfinite(leaked.high_j)


def test_nothing_leaked_has_no_price(arms: Sequence[ArmResults]) -> None:
    """The fixture's spiking arm is rebuilt no better than its baselines."""
    price = prices(arms[1])["dB leaked"]
    assert isinstance(price, Missing)
    assert "no leak" in price.why


def test_a_shared_meter_is_not_added_over_clients(arms: Sequence[ArmResults]) -> None:
    found = prices(measured(arms[0]))
    assert found["client-round"].kind == "measured"
    assert isinstance(found["round"], Missing)
    assert "share one meter" in found["round"].why


def test_overlapping_intervals_are_no_difference(arms: Sequence[ArmResults]) -> None:
    near = contests([spending(arms[0], 1.0), spending(arms[1], 1.2)])[0]
    far = contests([spending(arms[0], 1.0), spending(arms[1], 2.0)])[0]
    assert near.verdicts["energy"] == "no difference"
    assert far.verdicts["energy"] == "less"
    assert far.verdicts["leakage"] == "more"
    assert far.winner == ""  # each is better somewhere


def test_who_is_better_somewhere_and_worse_nowhere_beats_the_other(
    arms: Sequence[ArmResults],
) -> None:
    both = [spending(arms[0], 2.0), spending(arms[1], 1.0)]
    (contest,) = contests(both)
    assert contest.verdicts["energy"] == "more"
    assert contest.verdicts["leakage"] == "more"
    assert contest.winner == "snn"
    assert front(both) == ["snn"]


def test_joules_of_other_sources_do_not_compare(arms: Sequence[ArmResults]) -> None:
    verdict = contests([measured(arms[0]), arms[1]])[0].verdicts["energy"]
    assert isinstance(verdict, Missing)
    assert "measured" in verdict.why
