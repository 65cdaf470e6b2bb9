"""Label estimators: what each reads exactly, what it refuses, what it reaches on digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.labels import LABEL_ESTIMATORS  # noqa: E402
from attacker.labels.counts import rounded  # noqa: E402
from attacker.labels.readout import Readout, read  # noqa: E402
from fedcore.data.encodings import encode  # noqa: E402
from fedcore.errors import AttackError, KnowledgeError  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient, loss  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import Knowledge, Observation, TensorMap, Ticket  # noqa: E402

pytestmark = pytest.mark.torch

CONVENTIONAL = ModelSpec(name="mlp", options={"hidden": [64]})
SPIKING = ModelSpec(name="mlp", options={"hidden": [64]}, spiking=True, init_gain=3.0)
STEPS = {False: 1, True: 4}
NEEDING_DATA = ("auxiliary", "class-means")
NEEDING_BIAS = ("auxiliary", "flat", "ilrg")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    datasets = pytest.importorskip("sklearn.datasets")
    torch.set_num_threads(1)
    loaded = datasets.load_digits()
    return (loaded.images[:, None] / 16).astype(np.float32), loaded.target.astype(np.int64)


def observe(
    model: ModelSpec, inputs: np.ndarray, labels: np.ndarray, weights: TensorMap | None = None
) -> Observation:
    encoding = EncodingSpec(n_steps=STEPS[model.spiking])
    weights = initial_weights(model, 3) if weights is None else weights
    train = to_tensor(encode(encoding, inputs, stream(1, "secret")))
    slopes = gradient(build(model), to_tensors(weights), train, to_tensor(labels))
    training = Training(batch_size=len(labels))
    plan = RoundPlan(
        run_id="run",
        round=0,
        experiment_digest="",
        model=model,
        weights="",
        encoding=encoding,
        training=training,
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


def readout_of(seen: Observation, told: Knowledge | None = None) -> Readout:
    return read(
        seen,
        told or Knowledge(),
        gradient=seen.tensors,
        n_examples=seen.n_examples,
        network=build(seen.plan.model),
    )


def overlap(name: str, readout: Readout, labels: np.ndarray) -> float:
    found = rounded(LABEL_ESTIMATORS.get(name)(readout), total=len(labels))
    true = np.bincount(labels, minlength=readout.n_classes)
    return float(np.minimum(found, true).sum() / len(labels))


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("readout", ["membrane_mean", "per_step"])
@pytest.mark.parametrize("name", ["flat", "ilrg", "class-means"])
def test_an_untrained_network_tells_the_counts(
    name: str, readout: str, spiking: bool, digits
) -> None:
    images, labels = digits
    spec = replace(SPIKING if spiking else CONVENTIONAL, readout=readout)
    told = Knowledge(auxiliary_inputs=images[1000:1300], auxiliary_labels=labels[1000:1300])
    reached = []
    for size in (4, 16, 64):
        index = np.random.default_rng(size).integers(0, 1000, size=size)
        seen = observe(spec, images[index], labels[index])
        reached.append(overlap(name, readout_of(seen, told), labels[index]))
    assert np.mean(reached) >= 0.9


@pytest.mark.parametrize("name", ["idlg", "gradinversion", "llg"])
def test_labels_that_are_there_once_are_read_by_sign(name: str, digits) -> None:
    images, labels = digits
    index = np.array([int(np.flatnonzero(labels == label)[0]) for label in (1, 4, 7)])
    for spec in (CONVENTIONAL, SPIKING):
        readout = readout_of(observe(spec, images[index], labels[index]))
        assert overlap(name, readout, labels[index]) == 1


@pytest.mark.parametrize("name", LABEL_ESTIMATORS.names())
def test_the_order_of_the_batch_changes_nothing(name: str, digits) -> None:
    images, labels = digits
    told = Knowledge(auxiliary_inputs=images[900:1100], auxiliary_labels=labels[900:1100])
    index = np.arange(20)
    found = [
        LABEL_ESTIMATORS.get(name)(readout_of(observe(SPIKING, images[i], labels[i]), told))
        for i in (index, index[::-1])
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert found[0].shape == (10,)


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("readout", ["membrane_mean", "per_step"])
def test_known_examples_give_the_gradient_that_a_client_sends(
    readout: str, spiking: bool, digits
) -> None:
    images, labels = digits
    spec = replace(SPIKING if spiking else CONVENTIONAL, readout=readout)
    told = Knowledge(auxiliary_inputs=images[:8], auxiliary_labels=labels[:8])
    seen = readout_of(observe(spec, images[:8], labels[:8]), told)
    known = seen.need_auxiliary()
    steps = known.residuals.shape[1]
    slope = np.einsum("esc,esf->cf", known.residuals, known.features) / (8 * steps)
    np.testing.assert_allclose(slope, seen.weight_slope, atol=1e-6)
    np.testing.assert_allclose(known.residuals.mean(axis=(0, 1)), seen.bias_slope, atol=1e-6)


@pytest.mark.parametrize("name", NEEDING_DATA)
def test_auxiliary_data_are_a_capability(name: str, digits) -> None:
    images, labels = digits
    readout = readout_of(observe(CONVENTIONAL, images[:4], labels[:4]))
    with pytest.raises(KnowledgeError, match="auxiliary_data"):
        LABEL_ESTIMATORS.get(name)(readout)


@pytest.mark.parametrize("name", LABEL_ESTIMATORS.names())
def test_an_update_without_the_bias_is_read_or_refused(name: str, digits) -> None:
    images, labels = digits
    seen = observe(CONVENTIONAL, images[:4], labels[:4])
    without = {n: t for n, t in seen.tensors.items() if n != "readout.bias"}
    told = Knowledge(auxiliary_inputs=images[100:200], auxiliary_labels=labels[100:200])
    readout = readout_of(replace(seen, tensors=without), told)
    if name in NEEDING_BIAS:
        with pytest.raises(AttackError, match=r"readout\.bias"):
            LABEL_ESTIMATORS.get(name)(readout)
    else:
        assert overlap(name, readout, labels[:4]) >= 0.75


def test_a_threshold_behind_the_readout_is_refused(digits) -> None:
    images, labels = digits
    spec = replace(SPIKING, readout="spike_count")
    with pytest.raises(AttackError, match="threshold"):
        readout_of(observe(spec, images[:4], labels[:4]))


def test_numbers_that_are_not_finite_are_refused(digits) -> None:
    images, labels = digits
    seen = observe(CONVENTIONAL, images[:4], labels[:4])
    broken = {**seen.tensors, "readout.bias": np.full(10, np.nan, np.float32)}
    with pytest.raises(AttackError, match="NaN"):
        readout_of(replace(seen, tensors=broken))


def test_a_class_that_the_attacker_has_no_example_of_is_never_named(digits) -> None:
    images, labels = digits
    own = np.flatnonzero(labels[:300] != 3)
    told = Knowledge(auxiliary_inputs=images[own], auxiliary_labels=labels[own])
    index = np.flatnonzero(labels != 3)[400:410]
    readout = readout_of(observe(CONVENTIONAL, images[index], labels[index]), told)
    assert LABEL_ESTIMATORS.get("class-means")(readout)[3] == 0
    assert np.isfinite(LABEL_ESTIMATORS.get("auxiliary")(readout)).all()


def test_auxiliary_data_help_with_a_trained_network(digits) -> None:
    """Clients with two classes: what a formula of untrained networks cannot tell."""
    images, labels = digits
    weights = trained(CONVENTIONAL, images[:900], labels[:900])
    told = Knowledge(auxiliary_inputs=images[1300:], auxiliary_labels=labels[1300:])
    reached: dict[str, list[float]] = {"flat": [], "auxiliary": []}
    for trial in range(6):
        rng = np.random.default_rng(trial)
        own = np.flatnonzero(np.isin(labels[900:1300], rng.choice(10, 2, replace=False))) + 900
        index = rng.choice(own, 32)
        seen = observe(CONVENTIONAL, images[index], labels[index], weights)
        for name, scores in reached.items():
            scores.append(overlap(name, readout_of(seen, told), labels[index]))
    assert np.mean(reached["flat"]) < 0.5
    assert np.mean(reached["auxiliary"]) >= 0.65


def trained(model: ModelSpec, images: np.ndarray, labels: np.ndarray) -> TensorMap:
    params = to_tensors(initial_weights(model, 0))
    for tensor in params.values():
        tensor.requires_grad_()
    network, adam = build(model), torch.optim.Adam(params.values(), lr=5e-3)
    inputs, truth = to_tensor(images)[None], to_tensor(labels)
    for _ in range(60):
        adam.zero_grad()
        loss(network, params, inputs, truth).backward()
        adam.step()
    return to_arrays(params)
