"""What reaches an attack: what the experiment grants, whatever lies in files and on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.attacks.base import refusal  # noqa: E402
from attacker.campaign import Campaign  # noqa: E402
from attacker.observations import Event  # noqa: E402
from attacker.replay import replay  # noqa: E402
from attacker.rpc import TapLine  # noqa: E402
from fedcore.disclosure import write_knowledge  # noqa: E402
from fedcore.health import Pulse  # noqa: E402
from fedcore.plan import NeuronSpec  # noqa: E402
from fedcore.types import Knowledge, Observation, Reconstruction, Ticket  # noqa: E402
from fedcore.wire.channel import CertFiles  # noqa: E402

pytestmark = pytest.mark.torch

SECRETS = {
    "labels": np.array([2, 0]),
    "step_order": np.array([0, 1]),
    "encoded_input": np.full((1, 2, 6), 0.25),
    "batch_statistics": {"hidden1_norm.mean": np.full(5, 0.75)},
    "auxiliary_inputs": np.full((3, 6), 0.5),
    "auxiliary_labels": np.array([1, 1, 2]),
}
"""The knowledge file of these tests holds everything, also what nobody grants."""

NEURON = NeuronSpec(surrogate="arctan", sharpness=7.0)


class Spy:
    """An attack that only looks."""

    requires = ()

    def reconstruct(
        self, seen: Sequence[Observation], known: Sequence[Knowledge], *, budget: Any, **_: Any
    ) -> list[Reconstruction]:
        self.seen, self.known = seen, known
        return [refusal(o, attack="spy", budget=budget, why="it only looks") for o in seen]


@pytest.fixture
def spy(monkeypatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr("attacker.campaign.build", lambda *_: spy)
    return spy


def events(tapped, how: str, campaign: Campaign) -> Iterator[Event]:
    if how == "journal":
        yield from replay(tapped.run, tapped.experiment, wants=campaign.wants)
        return
    with (
        tapped.served() as address,
        TapLine(
            address=lambda: address,
            certs=CertFiles.of(tapped.certs, "attacker"),
            wants=campaign.wants,
            is_over=lambda: False,
        ) as line,
    ):
        yield from line.events(on_wait=lambda: None)


def attacked(tapped, how: str = "journal", **grants: bool) -> tuple[Reconstruction, ...]:
    """A run of one arm with secrets everywhere, under a threat model."""
    arm = tapped.experiment.arms[0]
    arm = replace(
        arm,
        threat=replace(arm.threat, **grants),
        training=replace(arm.training, batch_size=3),  # each client declares one example
        model=replace(arm.model, spiking=True, neuron=NEURON),
    )
    tapped.experiment = replace(tapped.experiment, arms=(arm,))
    tapped.run.experiment_file.unlink()
    tapped.run.write_experiment(tapped.experiment)
    tapped.accept_round("one", 0)
    tapped.finish("one")
    run_id = tapped.experiment.run_id(arm)
    tickets = [Ticket(run_id=run_id, round=0, client_id=c) for c in tapped.experiment.client_ids]
    secrets = {ticket: Knowledge(**SECRETS) for ticket in tickets}
    write_knowledge(tapped.run.knowledge_file(run_id), secrets)
    campaign = Campaign(
        tapped.experiment, tapped.run, attacks={"one": arm.attack}, waits=False, pulse=Pulse(None)
    )
    campaign.follow(events(tapped, how, campaign))
    (answers,) = campaign.answers().values()
    return answers


@pytest.mark.parametrize(
    "granted",
    [
        {"labels"},
        {"encoded_input"},
        {"labels", "step_order"},
        {"batch_statistics"},
        {"auxiliary_data"},
        {"labels", "encoded_input", "step_order", "auxiliary_data"},
    ],
)
def test_no_more_is_told_than_is_granted(granted: set[str], tapped, spy: Spy) -> None:
    attacked(tapped, **dict.fromkeys(granted, True))
    for told in spy.known:
        for name, secret in SECRETS.items():
            is_granted = name in granted or name.replace("inputs", "data") in granted
            is_granted |= name == "auxiliary_labels" and "auxiliary_data" in granted
            if is_granted:
                np.testing.assert_equal(getattr(told, name), secret)
            else:
                assert getattr(told, name) is None


@pytest.mark.parametrize("how", ["journal", "tap"])
@pytest.mark.parametrize("is_granted", [False, True])
def test_what_crosses_the_wire_is_seen_only_where_it_is_granted(
    is_granted: bool, how: str, tapped, spy: Spy
) -> None:
    capabilities = ("n_examples", "surrogate", "defence_settings")
    answers = attacked(tapped, how, **dict.fromkeys(capabilities, is_granted))
    assert len(spy.seen) == len(answers) == 2
    for seen, answer in zip(spy.seen, answers, strict=True):
        assert seen.n_examples == (1 if is_granted else 3)
        assert seen.plan.model.neuron == (NEURON if is_granted else NeuronSpec())
        assert bool(seen.plan.defences) == is_granted
        assumed = {} if is_granted else {"assumed examples": 3, "assumed sharpness": 25}
        assert dict(answer.certificate) == assumed


def test_the_judges_view_of_a_journal_holds_whole_plans(tapped, spy: Spy) -> None:
    attacked(tapped, surrogate=False)
    (seen, *_) = replay(tapped.run, tapped.experiment, wants=lambda _: True, as_sent=True)
    assert seen.observation.plan.model.neuron == NEURON
    assert seen.observation.plan.defences
