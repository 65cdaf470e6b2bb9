"""Knowledge: what is not granted cannot be in the file."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from fedcore.disclosure import read_knowledge
from fedcore.errors import RunError
from fedcore.ground_truth import VictimRecord
from fedcore.seeds import stream
from fedcore.types import Knowledge, ThreatModel, Ticket
from testbed.disclose import disclose, granted

GRANTS = ("labels", "encoded_input", "auxiliary_data", "defence_settings", "step_order")


@pytest.mark.parametrize(
    "bits",
    [b for b in itertools.product([False, True], repeat=5) if any(b[:2]) or not b[4]],
)
def test_only_granted_fields_are_in_the_file(make_world: Callable, bits: tuple[bool, ...]) -> None:
    grants = dict(zip(GRANTS, bits, strict=True))
    world = make_world(threat=grants, arms=[{"name": "ann"}])
    disclose(world.run, world.private)
    path = world.run.knowledge_file(world.run_id("ann"))
    with np.load(path, allow_pickle=False) as file:
        kinds = {name.rsplit("/", 1)[-1] for name in file.files} - {"victims"}
    expected = {name for name in ("labels", "encoded_input", "step_order") if grants[name]}
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
    assert own == {"labels", "encoded_input", "step_order"}
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


LABELS = np.array([5, 3, 5, 3, 0, 5])  # two local steps of three examples


def told(order: list[int], **grants: bool) -> Knowledge:
    """What is granted of one batch whose examples the client happened to have in this order."""
    spikes = stream(3, "spikes").integers(0, 2, (4, 6, 8)).astype(np.float32)
    record = VictimRecord(
        ticket=Ticket(run_id="run", round=0, client_id="client-0"),
        sha256="0" * 64,
        inputs=spikes.mean(axis=0)[order],
        labels=LABELS[order],
        encoded_input=spikes[:, order],
        batch_sizes=(3, 3),
    )
    return granted(record, threat=ThreatModel(**grants), auxiliary=None)


def equal(one: Knowledge, other: Knowledge) -> bool:
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a is b
        for a, b in ((getattr(one, name), getattr(other, name)) for name in vars(one))
    )


@pytest.mark.parametrize("encoded_input", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_the_order_of_a_batch_tells_nothing_that_is_not_granted(
    labels: bool, encoded_input: bool
) -> None:
    grants = {"labels": labels, "encoded_input": encoded_input}
    for order in itertools.permutations(range(6)):
        assert equal(told(list(order), **grants), told(list(range(6)), **grants))


def test_a_granted_step_order_tells_the_steps_and_not_the_order_within() -> None:
    grants = {"labels": True, "step_order": True, "encoded_input": True}
    known = told(list(range(6)), **grants)
    assert known.labels.tolist() == [3, 5, 5, 0, 3, 5]
    assert known.step_order.tolist() == [0, 0, 0, 1, 1, 1]
    assert equal(known, told([2, 1, 0, 4, 5, 3], **grants))
    assert not equal(known, told([3, 1, 2, 0, 4, 5], **grants))
    truth = told(list(range(6)), labels=True, encoded_input=True)
    pairs = [
        sorted(
            (int(y), x.tobytes())
            for y, x in zip(k.labels, k.encoded_input.swapaxes(0, 1), strict=True)
        )
        for k in (known, truth)
    ]
    assert pairs[0] == pairs[1]  # each encoded input keeps its label
