"""Attacks on networks with batch normalisation, with and without the batch's statistics."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.attacks.grad_inversion import GradInversion  # noqa: E402
from attacker.labels import LABEL_ESTIMATORS  # noqa: E402
from fedcore.data.encodings import encode  # noqa: E402
from fedcore.errors import AttackError, KnowledgeError  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import batch_statistics  # noqa: E402
from fedcore.nn.models import build  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, NeuronSpec  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import Knowledge  # noqa: E402

pytestmark = pytest.mark.torch

TRAIN = ModelSpec(name="convnet", options={"normalisation": "batch-train"})
EVAL = ModelSpec(name="convnet", options={"normalisation": "batch-eval"})
EXAMPLES = [100, 101, 102, 103]


def known_of(laboratory, seen) -> Knowledge:
    """Labels and statistics of the victim's batch, as `testbed.disclose` grants them."""
    truth = laboratory.truths[seen.ticket]
    train = encode(seen.plan.encoding, truth.inputs, stream(0, "unused"))
    statistics = batch_statistics(
        build(seen.plan.model), to_tensors(seen.weights), to_tensor(train)
    )
    return Knowledge(labels=np.sort(truth.labels), batch_statistics=to_arrays(statistics))


@pytest.mark.parametrize("distance", ["squared", "cosine"])
def test_statistics_of_the_batch_make_gradinversion_stronger(distance: str, laboratory) -> None:
    seen = laboratory.victim(EXAMPLES, model=TRAIN)
    known = known_of(laboratory, seen)
    told = [known, replace(known, batch_statistics=None)]
    options = {"labels": "granted", "distance": distance}
    with_them, without = (
        laboratory.attack("gradinversion", [seen], known=[k], iterations=110, **options)[0]
        for k in told
    )
    assert with_them.knowledge == ("labels", "batch_statistics")
    assert with_them.certificate["statistics"] == 1
    assert without.knowledge == ("labels",)
    assert "statistics" not in without.certificate
    assert laboratory.psnr_db(with_them) >= laboratory.psnr_db(without) + 1.5
    assert laboratory.psnr_db(with_them) >= 17


def test_fixed_statistics_count_where_they_were_measured(laboratory) -> None:
    seen = laboratory.victim([100], model=EVAL)
    measured = known_of(laboratory, laboratory.victim(range(500, 600), model=EVAL))
    statistics = {name: v.tolist() for name, v in measured.batch_statistics.items()}
    options = {**EVAL.options, "statistics": statistics}
    fixed = laboratory.victim([100], model=replace(EVAL, options=options), client=1)
    plain, informed = laboratory.attack("gradinversion", [seen, fixed], iterations=3)
    assert "statistics" not in plain.certificate
    assert informed.certificate["statistics"] == 0
    assert not informed.knowledge
    (ignoring,) = laboratory.attack("gradinversion", [fixed], iterations=3, fixed_batch_norm=0.0)
    assert "statistics" not in ignoring.certificate


@pytest.mark.parametrize("encoding", ["direct", "rate"])
def test_the_distance_from_statistics_over_time_is_in_the_loss(encoding: str, laboratory) -> None:
    model = replace(TRAIN, spiking=True, neuron=NeuronSpec(sharpness=5.0))
    spec = EncodingSpec(name=encoding, n_steps=3)
    seen = laboratory.victim(EXAMPLES[:2], model=model, encoding=spec)
    known = [known_of(laboratory, seen)]
    free, once, twice = (
        laboratory.attack("gradinversion", [seen], known=known, iterations=1, batch_norm=weight)[0]
        for weight in (0.0, 1.0, 2.0)
    )
    assert once.knowledge == ("batch_statistics",)
    distance = once.losses[0] - free.losses[0]
    assert distance > 0.01
    np.testing.assert_allclose(twice.losses[0] - free.losses[0], 2 * distance, rtol=1e-3)


def test_statistics_of_another_network_are_refused(laboratory) -> None:
    seen = laboratory.victim(EXAMPLES, model=TRAIN)
    wrong = Knowledge(batch_statistics={"conv1_norm.mean": np.zeros(16, np.float32)})
    with pytest.raises(KnowledgeError, match=r"do not fit the network in conv1_norm\.variance"):
        laboratory.attack("gradinversion", [seen], known=[wrong], iterations=1)


def test_restarts_of_one_victim_are_drawn_together_and_no_others(laboratory) -> None:
    seen = [laboratory.victim([i], model=TRAIN, client=i) for i in (100, 101)]

    def spread(weight: float, victims) -> float:
        answers = laboratory.attack(
            "gradinversion", victims, restarts=3, iterations=20, consistency=weight
        )
        return float(np.mean([answer.candidates.std(axis=0).mean() for answer in answers]))

    assert spread(100.0, seen) < 0.2 * spread(0.0, seen)
    both, alone = (
        laboratory.attack("gradinversion", victims, restarts=3, iterations=10, consistency=100.0)
        for victims in (seen, seen[1:])
    )
    np.testing.assert_allclose(both[1].candidates, alone[0].candidates, atol=1e-5)


def test_restarts_are_registered_before_they_agree() -> None:
    """Two of three are the same image, the third is it one pixel aside."""
    image = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    rows = torch.stack([image, image, image.roll(1, -1)]).flatten(1)
    batch = SimpleNamespace(
        view=SimpleNamespace(shape=(1, 1, 6, 6), is_train=False),
        evaluate=lambda rows: (torch.zeros(len(rows)), torch.zeros_like(rows)),
        group_means=lambda rows: rows.mean(0).expand_as(rows),
    )
    plain, aligned = (
        GradInversion(consistency=1.0, registration=reach).evaluate(batch)(rows) for reach in (0, 1)
    )
    assert (plain[0] > 1e-3).all()
    torch.testing.assert_close(aligned[0][:2], torch.zeros(2))
    torch.testing.assert_close(aligned[0][2], (rows[2] - rows[0]).square().mean())
    torch.testing.assert_close(aligned[1][2], 2 / 36 * (rows[2] - rows[0]))


def test_noise_is_a_rows_own(laboratory) -> None:
    """Whoever is attacked beside it; and without noise there is none."""
    seen = [laboratory.victim([i], model=EVAL, client=i) for i in (100, 101)]
    options = {"restarts": 2, "iterations": 10, "consistency": 0.0}
    both, alone, calm = (
        laboratory.attack("gradinversion", victims, noise=noise, **options)
        for victims, noise in ((seen, 0.2), (seen[1:], 0.2), (seen[1:], 0.0))
    )
    np.testing.assert_allclose(both[1].candidates, alone[0].candidates, atol=1e-5)
    assert np.abs(alone[0].candidates - calm[0].candidates).mean() > 1e-3
    moved = alone[0].candidates - calm[0].candidates
    assert np.abs(moved[0] - moved[1]).mean() > 1e-3


def test_peeling_refuses_batches_that_normalise_themselves(laboratory) -> None:
    """One example, too: the rows of the search lie in one batch, and would be mixed."""
    mixed, single, fixed = laboratory.attack(
        "peeling",
        [
            laboratory.victim([100, 101], model=TRAIN),
            laboratory.victim([100], model=TRAIN, client=1),
            laboratory.victim([100, 101], model=EVAL, client=2),
        ],
        iterations=2,
    )
    assert "normalised by its own statistics" in mixed.failed
    assert "normalised by its own statistics" in single.failed
    assert not fixed.failed


@pytest.mark.parametrize("model", [TRAIN, EVAL], ids=["train", "eval"])
@pytest.mark.parametrize("estimator", LABEL_ESTIMATORS.names())
def test_labels_of_a_normalised_batch_are_estimated_or_refused(
    estimator: str, model: ModelSpec, laboratory
) -> None:
    seen = laboratory.victim(EXAMPLES, model=model)
    known = Knowledge(
        auxiliary_inputs=laboratory.images[500:700], auxiliary_labels=laboratory.labels[500:700]
    )
    try:
        (answer,) = laboratory.attack(
            "inverting-gradients", [seen], known=[known], iterations=1, labels=estimator
        )
    except AttackError as reason:
        assert estimator in str(reason)  # noqa: PT017
        return
    found, right = answer.labels[0], laboratory.labels[EXAMPLES]
    shared = sum(min((found == c).sum(), (right == c).sum()) for c in range(10))
    assert shared >= 2


@pytest.mark.parametrize("normalisation", ["batch-train", "batch-eval"])
def test_a_normalised_first_layer_is_read_or_refused_for_what_it_is(
    normalisation: str, laboratory
) -> None:
    """It has no bias, which would tell the scale; alone, an example is normalised away."""
    spec = ModelSpec(name="mlp", options={"hidden": [32], "normalisation": normalisation})
    seen = laboratory.victim([100], model=spec, encoding=EncodingSpec(n_steps=2))
    (answer,) = laboratory.attack("first-layer", [seen], iterations=1)
    if normalisation == "batch-train":
        assert "every gradient in layer 'hidden1' is zero" in answer.failed
    else:
        assert answer.certificate["scale_known"] == 0
