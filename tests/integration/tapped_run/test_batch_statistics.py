"""Statistics of a victim's batch reach the attacker as a capability, and in no other way."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aggregator.store import StoreReader  # noqa: E402
from edge_client.vault import Truth, Vault  # noqa: E402
from fedcore.disclosure import read_knowledge  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.ground_truth import JudgeKey, VictimRecord  # noqa: E402
from fedcore.layout import PrivateFolder  # noqa: E402
from fedcore.nn.models import initial_weights  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import Knowledge, Observation, ThreatModel, Ticket  # noqa: E402
from testbed.disclose import disclose, granted  # noqa: E402
from testbed.experiment import check  # noqa: E402

pytestmark = pytest.mark.torch

MODEL = ModelSpec(
    name="mlp",
    input_shape=(6,),
    n_classes=3,
    options={"hidden": [5], "normalisation": "batch-train"},
)


def told(order: list[int], **grants: bool) -> Knowledge:
    """What is granted of a batch of four examples that the client had in this order."""
    train = stream(3, "train").random((2, 4, 6), dtype=np.float32)[:, order]
    ticket = Ticket(run_id="run", round=0, client_id="client-0")
    record = VictimRecord(
        ticket=ticket,
        sha256="0" * 64,
        inputs=train.mean(axis=0),
        labels=np.arange(4)[order],
        encoded_input=train,
        batch_sizes=(4,),
    )
    plan = RoundPlan(
        run_id="run",
        round=0,
        experiment_digest="",
        model=MODEL,
        weights="",
        encoding=EncodingSpec(n_steps=2),
        training=Training(batch_size=4),
    )
    seen = Observation(
        ticket=ticket,
        plan=plan,
        weights=initial_weights(MODEL, 0),
        tensors={},
        kind="gradient",
        n_examples=4,
        sha256="0" * 64,
        n_bytes=0,
    )
    threat = ThreatModel(**grants)
    return granted(
        record, threat=threat, auxiliary=None, seen=seen if threat.batch_statistics else None
    )


def test_they_are_those_of_the_whole_batch_and_do_not_tell_its_order() -> None:
    known = told([0, 1, 2, 3], batch_statistics=True)
    assert known.labels is known.encoded_input is None
    train = stream(3, "train").random((2, 4, 6), dtype=np.float32)
    currents = train.reshape(8, 6) @ initial_weights(MODEL, 0)["hidden1.weight"].T
    assert known.batch_statistics.keys() == {"hidden1_norm.mean", "hidden1_norm.variance"}
    for kind, expected in (("mean", currents.mean(0)), ("variance", currents.var(0))):
        found = known.batch_statistics[f"hidden1_norm.{kind}"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    for order in itertools.permutations(range(4)):
        for name, values in told(list(order), batch_statistics=True).batch_statistics.items():
            assert values.tobytes() == known.batch_statistics[name].tobytes()


def test_nothing_else_grants_them() -> None:
    assert told([0, 1, 2, 3], labels=True, encoded_input=True).batch_statistics is None
    assert ThreatModel(batch_statistics=True).letter == "E"


@pytest.mark.parametrize("is_granted", [False, True])
def test_a_run_tells_them_only_where_they_are_granted(
    is_granted: bool, tapped, tmp_path: Path
) -> None:
    arm = replace(
        tapped.experiment.arms[0], model=MODEL, threat=ThreatModel(batch_statistics=is_granted)
    )
    tapped.experiment = replace(tapped.experiment, arms=(arm,))
    tapped.run.experiment_file.unlink()
    tapped.run.write_experiment(tapped.experiment)
    tapped.accept_round("one", 0)
    private = PrivateFolder(tmp_path / "private")
    JudgeKey.generate().write(private=private.judge_private, public=private.judge_public)
    vault = Vault(tapped.run.vault, judge_key=private.judge_public)
    run_id = tapped.experiment.run_id(arm)
    with StoreReader(tapped.run.store_file) as store:
        updates = store.updates(run_id)
    for update in updates:
        inputs, labels = tapped.truth(update.ticket)
        truth = Truth.copy_of(inputs=[inputs], labels=[labels], encoded=[inputs[None]])
        vault.seal(truth, ticket=update.ticket, sha256=update.sha256)
    disclose(tapped.run, private)
    known = read_knowledge(tapped.run.knowledge_file(run_id))
    assert len(known) == 2
    for ticket, knowledge in known.items():
        if not is_granted:
            assert knowledge.batch_statistics is None
            continue
        (inputs,), _ = tapped.truth(ticket)
        expected = initial_weights(MODEL, 0)["hidden1.weight"] @ inputs
        mean = knowledge.batch_statistics["hidden1_norm.mean"]
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)
        assert not knowledge.batch_statistics["hidden1_norm.variance"].any()


def test_what_a_batchs_own_statistics_rule_out_is_refused_before_the_run(tapped) -> None:
    experiment = tapped.experiment
    arm = replace(experiment.arms[0], threat=ThreatModel(batch_statistics=True))
    with pytest.raises(ConfigError, match="'mlp' with these options normalises nothing"):
        check(replace(experiment, arms=(arm,)), where="test")
    options = {"max_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 1}
    arm = replace(
        experiment.arms[0], model=MODEL, defences=(Choice(name="dp-sgd", options=options),)
    )
    with pytest.raises(ConfigError, match="'batch-train' mixes the examples"):
        check(replace(experiment, arms=(arm,)), where="test")
