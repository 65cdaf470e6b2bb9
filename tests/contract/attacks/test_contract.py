"""What every registered attack promises, whoever wrote it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.attacks import ATTACKS  # noqa: E402
from fedcore.errors import AttackError, KnowledgeError  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec, Training  # noqa: E402
from fedcore.strict import build  # noqa: E402
from fedcore.types import Knowledge, ThreatModel  # noqa: E402

ANALYTIC = ("first-layer", "r-gap")
"""They read the input instead of searching for it; see the tests of each."""

SEARCHES = [name for name in ATTACKS.names() if name not in ANALYTIC]
pytestmark = [pytest.mark.torch, pytest.mark.parametrize("name", SEARCHES)]

LINEAR = ModelSpec(name="mlp", options={"hidden": []})
SIGMOID = ModelSpec(activation="sigmoid", init_gain=5.0)
SPIKING = ModelSpec(spiking=True, init_gain=3.0)

GENERATORS = ("deep-prior", "gi-nas", "gion", "grnn")
"""They search weights, whose many gradients of zero are rounding that signed steps make visible."""

SUBJECTS: dict[str, dict[str, Any]] = {
    "relaxed-matching": {"model": SPIKING},
    "spike-compatible": {"model": SPIKING, "encoding": EncodingSpec(name="rate", n_steps=4)},
}
"""Victims of attacks that refuse conventional networks or currents."""


def subject(name: str) -> dict[str, Any]:
    """Model and encoding of a victim that this attack takes."""
    return SUBJECTS.get(name, {"model": SIGMOID})


def test_a_linear_models_inputs_are_recovered(name: str, laboratory) -> None:
    if name in SUBJECTS:
        pytest.skip("made for spiking networks")
    if name in GENERATORS:
        pytest.skip("weights take more steps than pixels: see test_generators.py")
    seen = [laboratory.victim([i], model=LINEAR, client=i) for i in range(3)]
    known = [Knowledge(labels=laboratory.truths[o.ticket].labels) for o in seen]
    options = {"labels": "granted"}
    if name == "inverting-gradients":
        options["total_variation"] = 0.0  # a prior is a deliberate bias
    for answer in laboratory.attack(name, seen, known=known, restarts=3, iterations=250, **options):
        assert laboratory.psnr_db(answer) >= 40
        assert answer.knowledge == ("labels",)


def test_answers_have_the_stated_form(name: str, laboratory) -> None:
    seen = [laboratory.victim([i], **subject(name), round=i, client=i) for i in range(2)]
    told = []
    answers = laboratory.attack(
        name, seen, restarts=3, iterations=20, progress=lambda *facts: told.append(facts)
    )
    assert [a.ticket for a in answers] == [o.ticket for o in seen]
    for answer, observation in zip(answers, seen, strict=True):
        assert answer.sha256 == observation.sha256
        assert answer.attack == name
        assert answer.candidates.shape == (3, 1, 1, 8, 8)
        assert answer.labels.shape == (3, 1)
        assert answer.losses.shape == (3,)
        assert answer.loss_curves.shape[0] == 3
        assert np.isfinite(answer.losses).all()
        assert 0 <= answer.candidates.min() <= answer.candidates.max() <= 1
        assert 0 < answer.n_iterations <= 20
        assert answer.duration_s > 0
        assert not answer.failed
        assert not answer.knowledge
    assert [done for done, _, _ in told] == list(range(1, answers[0].n_iterations + 1))
    assert all(total == 20 and losses.shape == (2,) for _, total, losses in told)


def test_what_is_required_is_refused_without(name: str, laboratory) -> None:
    attack = build(ATTACKS, Choice(name=name, options={"labels": "granted"}))
    assert set(attack.requires) <= {field.name for field in fields(ThreatModel)}
    seen = [laboratory.victim([0], **subject(name))]
    assert "labels" in attack.requires
    with pytest.raises(KnowledgeError, match="'labels'"):
        laboratory.attack(name, seen, iterations=2, labels="granted")


def test_a_batch_is_attacked_with_granted_labels(name: str, laboratory) -> None:
    seen = [laboratory.victim([3, 1, 4], **subject(name))]
    known = [Knowledge(labels=laboratory.labels[[3, 1, 4]])]
    (answer,) = laboratory.attack(name, seen, known=known, iterations=10, labels="granted")
    assert answer.candidates.shape == (1, 3, 1, 8, 8)
    assert answer.labels.tolist() == [laboratory.labels[[3, 1, 4]].tolist()]


def test_a_silent_victim_keeps_its_place_with_the_reason(name: str, laboratory) -> None:
    seen = [laboratory.victim([i], **subject(name), client=i) for i in range(3)]
    silent = {n: np.zeros_like(t) for n, t in seen[1].tensors.items()}
    answers = laboratory.attack(
        name, [seen[0], replace(seen[1], tensors=silent), seen[2]], restarts=2, iterations=5
    )
    assert [bool(answer.failed) for answer in answers] == [False, True, False]
    assert "zero" in answers[1].failed
    assert np.isnan(answers[1].candidates).all()
    assert np.isnan(answers[1].losses).all()
    assert len(answers[1].candidates) == 2


def test_two_updates_of_one_ticket_are_two_victims(name: str, laboratory) -> None:
    """As sent under two defences, say."""
    one = laboratory.victim([0], **subject(name))
    other = replace(one, tensors={n: np.sign(t) for n, t in one.tensors.items()}, sha256="other")
    answers = laboratory.attack(name, [one, other], iterations=4)
    assert [a.sha256 for a in answers] == [one.sha256, "other"]
    assert answers[0].losses[0] != answers[1].losses[0]


def test_several_local_steps_are_attacked_or_refused_for_what_they_are(
    name: str, laboratory
) -> None:
    seen = laboratory.victim([0], **subject(name))
    training = Training(update="delta", batch_size=1, local_steps=3)
    steps = replace(seen, kind="delta", n_examples=3, plan=replace(seen.plan, training=training))
    known = [Knowledge(labels=laboratory.labels[[0, 0, 0]])]
    why = ""
    try:
        (answer,) = laboratory.attack(name, [steps], known=known, iterations=2)
        why = answer.failed
    except AttackError as reason:
        why = str(reason)
    assert "3 local steps" in why or answer.candidates.shape == (1, 3, 1, 8, 8)


def test_the_order_of_victims_changes_nothing(name: str, laboratory) -> None:
    seen = [laboratory.victim([i], **subject(name), round=i % 2, client=i) for i in range(4)]
    forwards = laboratory.attack(name, seen, restarts=2, iterations=8)
    backwards = laboratory.attack(name, seen[::-1], restarts=2, iterations=8)[::-1]
    tolerance = 1e-3 if name in GENERATORS else 1e-6
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_allclose(one.candidates, other.candidates, atol=tolerance)
        np.testing.assert_allclose(one.losses, other.losses, rtol=100 * tolerance)


@pytest.mark.parametrize("encoding", ["direct", "rate", "latency", "events", "delta"])
def test_every_encoding_is_attacked(name: str, encoding: str, laboratory) -> None:
    spec = EncodingSpec(name=encoding, n_steps=4)
    inputs = None
    if encoding in ("events", "delta"):
        inputs = np.stack([laboratory.images[[8]] > t / 4 for t in range(4)], axis=1)
    seen = laboratory.victim(
        [8], model=SPIKING, encoding=spec, inputs=None if inputs is None else inputs.astype("f4")
    )
    (answer,) = laboratory.attack(name, [seen], restarts=2, iterations=5)
    if answer.failed:
        assert repr(encoding) in answer.failed
        return
    assert answer.candidates.shape == (2, *laboratory.truths[seen.ticket].inputs.shape)
    assert 0 <= answer.candidates.min() <= answer.candidates.max() <= 1


@pytest.mark.parametrize("shape", [(2, 6, 6), (3, 6, 6), (4, 9), (7,)])
def test_any_number_of_channels_and_axes(name: str, shape: tuple[int, ...], laboratory) -> None:
    usual = subject(name)
    model = replace(usual["model"], name="lenet" if len(shape) == 3 else "mlp", input_shape=shape)
    inputs = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    seen = laboratory.victim([5], **{**usual, "model": model}, inputs=inputs)
    (answer,) = laboratory.attack(name, [seen], iterations=5)
    assert answer.candidates.shape == (1, 1, *shape)
    if answer.failed:
        assert f"shape {list(shape)}" in answer.failed
        return
    assert np.isfinite(answer.losses).all()
