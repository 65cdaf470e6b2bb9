"""Which source of labels an attack on gradients uses, and what it says about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.attacks import ATTACKS  # noqa: E402
from attacker.attacks.base import Budget  # noqa: E402
from fedcore.errors import AttackError, ConfigError, KnowledgeError  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.strict import build as build_plugin  # noqa: E402
from fedcore.types import Knowledge, Observation, Reconstruction, Ticket  # noqa: E402

pytestmark = pytest.mark.torch

MODEL = ModelSpec(name="mlp", options={"hidden": [32]})
LABELS = np.array([7, 2, 7, 7, 0])


def observe(model: ModelSpec = MODEL, labels: np.ndarray = LABELS) -> Observation:
    inputs = stream(0, "images").random((len(labels), *model.input_shape), dtype=np.float32)
    weights = initial_weights(model, 0)
    slopes = gradient(build(model), to_tensors(weights), to_tensor(inputs)[None], to_tensor(labels))
    plan = RoundPlan(
        run_id="run",
        round=0,
        experiment_digest="",
        model=model,
        weights="",
        encoding=EncodingSpec(),
        training=Training(batch_size=len(labels)),
    )
    return Observation(
        ticket=Ticket(run_id="run", round=0, client_id="client-0"),
        plan=plan,
        weights=weights,
        tensors=to_arrays(slopes),
        kind="gradient",
        n_examples=len(labels),
        sha256="",
        n_bytes=1,
    )


def attacked(
    seen: Observation, told: Knowledge | None = None, *, labels: str = "auto"
) -> Reconstruction:
    choice = Choice(name="inverting-gradients", options={"labels": labels})
    (answer,) = build_plugin(ATTACKS, choice).reconstruct(
        [seen],
        [told or Knowledge()],
        rng=stream(0, "attack"),
        budget=Budget(restarts=1, iterations=2),
        progress=lambda *_: None,
    )
    return answer


def told_of_examples() -> Knowledge:
    rng = stream(1, "auxiliary")
    inputs = rng.random((60, *MODEL.input_shape), dtype=np.float32)
    return Knowledge(auxiliary_inputs=inputs, auxiliary_labels=np.arange(60) % 10)


def labels_by(answer: Reconstruction) -> list[str]:
    return [name for name in answer.certificate if name.startswith("labels by ")]


@pytest.mark.parametrize("source", ["auto", "flat", "ilrg"])
def test_a_batch_is_attacked_with_the_labels_that_it_has(source: str) -> None:
    answer = attacked(observe(), labels=source)
    assert sorted(answer.labels[0]) == sorted(LABELS)
    assert labels_by(answer) == [f"labels by {'flat' if source == 'auto' else source}"]
    assert not answer.knowledge


def test_granted_labels_come_first() -> None:
    answer = attacked(observe(), replace(told_of_examples(), labels=LABELS))
    assert answer.labels[0].tolist() == LABELS.tolist()
    assert answer.knowledge == ("labels",)
    assert not labels_by(answer)


def test_granted_examples_are_used_and_named() -> None:
    answer = attacked(observe(), told_of_examples())
    assert answer.knowledge == ("auxiliary_data",)
    assert labels_by(answer) == ["labels by auxiliary"]


def test_one_example_is_read_by_the_rule() -> None:
    answer = attacked(observe(labels=LABELS[:1]), told_of_examples())
    assert answer.labels.tolist() == [[7]]
    assert not answer.knowledge
    assert not labels_by(answer)


def test_a_withheld_bias_leaves_the_rows() -> None:
    seen = observe()
    zeros = np.zeros_like(seen.tensors["readout.bias"])
    answer = attacked(replace(seen, tensors={**seen.tensors, "readout.bias": zeros}))
    assert labels_by(answer) == ["labels by llg"]
    assert set(answer.labels[0]) == set(LABELS)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(KnowledgeError, match="one example, not of the 5"):
        attacked(observe(), labels="rule")
    with pytest.raises(KnowledgeError, match="auxiliary_data"):
        attacked(observe(), labels="class-means")
    spiking = ModelSpec(
        name="mlp", options={"hidden": [32]}, spiking=True, init_gain=5.0, readout="spike_count"
    )
    with pytest.raises(AttackError, match=r"threshold.*'dlg'"):
        attacked(observe(spiking))
    with pytest.raises(ConfigError, match="labels"):
        attacked(observe(), labels="oracle")


def test_an_estimator_says_which_capability_it_needs() -> None:
    choice = Choice(name="inverting-gradients", options={"labels": "auxiliary"})
    assert build_plugin(ATTACKS, choice).requires == ("auxiliary_data",)
