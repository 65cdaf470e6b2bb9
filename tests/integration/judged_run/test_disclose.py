"""Knowledge: what is not granted cannot be in the file."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from fedcore.disclosure import read_knowledge
from fedcore.errors import RunError
from fedcore.types import ThreatModel
from testbed.disclose import disclose

GRANTS = ("labels", "encoded_input", "auxiliary_data", "defence_settings")


@pytest.mark.parametrize("bits", list(itertools.product([False, True], repeat=4)))
def test_only_granted_fields_are_in_the_file(make_world: Callable, bits: tuple[bool, ...]) -> None:
    grants = dict(zip(GRANTS, bits, strict=True))
    world = make_world(threat=grants, arms=[{"name": "ann"}])
    disclose(world.run, world.private)
    path = world.run.knowledge_file(world.run_id("ann"))
    with np.load(path, allow_pickle=False) as file:
        kinds = {name.rsplit("/", 1)[-1] for name in file.files} - {"victims"}
    expected = {name for name in ("labels", "encoded_input") if grants[name]}
    if grants["auxiliary_data"]:
        expected |= {"auxiliary_inputs", "auxiliary_labels"}
    assert kinds == expected

    known = read_knowledge(path)
    victims = world.arm("ann").attack.victim_rounds
    assert {ticket for ticket in world.truths if ticket.round in victims} == known.keys()
    for ticket, told in known.items():
        truth = world.truths[ticket]
        if grants["labels"]:
            np.testing.assert_array_equal(told.labels, truth.labels)
        if grants["encoded_input"]:
            np.testing.assert_array_equal(told.encoded_input, truth.encoded_input)


def test_raw_inputs_are_never_in_the_file(make_world: Callable) -> None:
    everything = dict.fromkeys(GRANTS, True)
    assert ThreatModel(**everything).grants  # the widest threat model there is
    world = make_world(threat=everything, arms=[{"name": "ann"}])
    disclose(world.run, world.private)
    with np.load(world.run.knowledge_file(world.run_id("ann")), allow_pickle=False) as file:
        own = {name.rsplit("/", 1)[-1] for name in file.files if "/" in name}
        auxiliary = {image.tobytes() for image in file["auxiliary_inputs"]}
    assert own == {"labels", "encoded_input"}
    raw = {image.tobytes() for truth in world.truths.values() for image in truth.inputs}
    assert not raw & auxiliary


def test_without_grants_the_vault_stays_closed(make_world: Callable) -> None:
    world = make_world()
    world.private.judge_private.unlink()
    disclose(world.run, world.private)
    assert read_knowledge(world.run.knowledge_file(world.run_id("ann")))


def test_a_record_that_must_be_disclosed_and_is_gone_is_an_error(make_world: Callable) -> None:
    world = make_world(threat={"labels": True})
    for path in world.run.vault.rglob("*.sealed"):
        path.unlink()
    with pytest.raises(RunError, match="cannot be disclosed"):
        disclose(world.run, world.private)
