"""What attacks are made of: objectives, priors, labels, views of the input, gradients, starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker.gradients import batch_size_of, gradient_of, norm_of  # noqa: E402
from attacker.inputs import input_view  # noqa: E402
from attacker.labels import label_candidates  # noqa: E402
from attacker.objectives import cosine_distance, squared_distance  # noqa: E402
from attacker.priors import total_variation  # noqa: E402
from attacker.starts import draw_start  # noqa: E402
from fedcore.data.encodings import encode  # noqa: E402
from fedcore.errors import AttackError  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient  # noqa: E402
from fedcore.nn.learning_rules.backprop import Backprop  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import Observation, Ticket  # noqa: E402

pytestmark = pytest.mark.torch


def layers(*seeds: int) -> list[dict[str, torch.Tensor]]:
    shapes = {"a": (3, 4), "b": (3,), "c": (2, 1, 2)}
    return [
        {n: to_tensor(stream(seed, n).normal(size=s)) for n, s in shapes.items()} for seed in seeds
    ]


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors.values()])


def test_distances_are_those_of_the_flattened_gradients() -> None:
    found, target = layers(0, 1)
    a, b = flat(found), flat(target)
    torch.testing.assert_close(squared_distance(found, target), ((a - b) ** 2).sum() / (b @ b))
    expected = 1 - torch.nn.functional.cosine_similarity(a, b, dim=0)
    torch.testing.assert_close(cosine_distance(found, target), expected)


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_the_cosine_does_not_know_the_gradients_length(factor: float) -> None:
    found, target = layers(0, 1)
    scaled = {name: factor * t for name, t in target.items()}
    torch.testing.assert_close(cosine_distance(found, scaled), cosine_distance(found, target))
    torch.testing.assert_close(cosine_distance(scaled, found), cosine_distance(target, found))


def test_the_cosine_of_a_vanished_gradient_can_be_differentiated() -> None:
    (target,) = layers(0)
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = cosine_distance({name: x * t for name, t in target.items()}, target)
    (slope,) = torch.autograd.grad(loss, x)
    assert loss == 1
    assert bool(slope.isfinite())


def test_total_variation_counts_space_and_not_time() -> None:
    image = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert total_variation(image, n_spatial=2) == 1.0  # along the width only
    still = image.expand(3, 2, 1, 2, 2)  # [time, batch, channel, height, width]
    flickering = still * torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1, 1, 1)
    assert total_variation(still, n_spatial=2) == 1.0
    torch.testing.assert_close(total_variation(flickering, n_spatial=2), torch.tensor(2 / 3))
    series = torch.tensor([[0.0, 1.0, 0.0], [5.0, 5.0, 5.0]])  # [channel, length]
    assert total_variation(series, n_spatial=1) == 0.5
    assert total_variation(series, n_spatial=0) == 0.0
    assert total_variation(torch.ones(1, 1, 1), n_spatial=2) == 0.0  # a single pixel


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize("readout", ["membrane_mean", "per_step", "spike_count"])
def test_the_label_of_one_example_is_read_exactly(spiking: bool, readout: str) -> None:
    spec = ModelSpec(spiking=spiking, readout=readout, init_gain=3.0, n_classes=10)
    model, params = build(spec), to_tensors(initial_weights(spec, 5))
    image = to_tensor(stream(0, "image").random((1, *spec.input_shape), dtype=np.float32))
    for label in range(spec.n_classes):
        slopes = to_arrays(
            gradient(model, params, image.expand(4, *image.shape), torch.tensor([label]))
        )
        if norm_of(slopes) > 0:  # a silent spike-count readout has no gradient at all
            assert label_candidates(slopes)[0] == label
        without_bias = {n: g for n, g in slopes.items() if n != "readout.bias"}
        if np.any(slopes["readout.weight"]):
            assert label_candidates(without_bias) == (label,)


def test_two_rules_that_differ_give_two_candidates() -> None:
    slopes = {
        "readout.bias": np.array([0.1, -0.2, 0.1]),
        "readout.weight": np.array([[-1.0, -1.0], [0.0, 1.0], [1.0, 0.0]]),
    }
    assert label_candidates(slopes) == (1, 0)
    silent = {**slopes, "readout.weight": np.zeros((3, 2))}
    assert label_candidates(silent) == (1,)
    with pytest.raises(AttackError, match="readout"):
        label_candidates({"hidden.weight": np.ones((3, 3))})


@pytest.mark.parametrize("surrogate", ["triangle", "rectangle"])
def test_a_class_that_a_surrogate_silenced_is_a_candidate(surrogate: str) -> None:
    """Far from the threshold these are 0, so the true class may be one of several zeros."""
    neuron = NeuronSpec(surrogate=surrogate)
    spec = ModelSpec(
        name="mlp", spiking=True, readout="spike_count", init_gain=3.0, neuron=neuron, n_classes=10
    )
    model, n_silent = build(spec), 0
    for seed in range(4):
        params = to_tensors(initial_weights(spec, seed))
        image = to_tensor(stream(seed, "image").random((1, *spec.input_shape), dtype=np.float32))
        for label in range(spec.n_classes):
            slopes = to_arrays(
                gradient(model, params, image.expand(8, *image.shape), torch.tensor([label]))
            )
            if norm_of(slopes) > 0:
                assert label in label_candidates(slopes)
                n_silent += len(label_candidates(slopes)) > 1
    assert n_silent


IMAGES = stream(1, "images").random((2, 1, 4, 4), dtype=np.float32)
FRAMES = (stream(2, "frames").random((2, 5, 2, 4, 4)) < 0.3).astype(np.float32)
STEPS = 5


def raw_of(name: str) -> np.ndarray:
    return FRAMES if name in ("events", "delta") else IMAGES


@pytest.mark.parametrize("name", ["direct", "latency", "delta", "events"])
def test_a_view_shows_the_true_train_as_the_raw_input(name: str) -> None:
    options = {"threshold": 1.0} if name == "delta" else {}
    spec = EncodingSpec(name=name, n_steps=STEPS, options=options)
    raw = raw_of(name)
    train = torch.from_numpy(encode(spec, raw, stream(0)))
    view = input_view(spec, input_shape=tuple(train.shape[2:]), batch_size=2)
    truth = torch.from_numpy(raw) if name == "direct" else train
    assert view.shape == truth.shape
    assert torch.equal(view.to_network(truth), train)
    assert view.low <= float(truth.min())
    assert float(truth.max()) <= view.high
    shown = view.to_raw(truth).numpy()
    assert shown.shape == raw.shape
    if name == "latency":
        np.testing.assert_allclose(shown, raw, atol=0.5 / STEPS + 1e-6)  # half a step
    elif name == "delta":  # where a signal never changed, its level is not in the train
        changes = (raw != raw[:, :1]).any(axis=1, keepdims=True)
        np.testing.assert_array_equal(np.where(changes, shown, 0), np.where(changes, raw, 0))
    else:
        np.testing.assert_array_equal(shown, raw)


def test_rate_coding_is_matched_in_expectation() -> None:
    spec = EncodingSpec(name="rate", n_steps=4000, options={"max_rate": 0.5})
    view = input_view(spec, input_shape=(1, 4, 4), batch_size=2)
    expected = view.to_network(torch.from_numpy(IMAGES))
    drawn = torch.from_numpy(encode(spec, IMAGES, stream(0, "encode")))
    assert expected.shape == drawn.shape
    deviation = (drawn.mean(0) - expected[0]).abs()
    assert float(deviation.max()) < 5 * 0.5 / np.sqrt(4000)  # five standard deviations
    assert torch.equal(view.to_raw(torch.from_numpy(IMAGES)), torch.from_numpy(IMAGES))


def test_an_unknown_encoding_is_refused_by_name() -> None:
    with pytest.raises(AttackError, match="'phase'"):
        input_view(EncodingSpec(name="phase"), input_shape=(4,), batch_size=1)


def observed(training: Training, kind: str, tensors) -> Observation:
    plan = RoundPlan(
        run_id="r",
        round=0,
        experiment_digest="",
        model=ModelSpec(name="mlp", input_shape=(6,)),
        weights="",
        encoding=EncodingSpec(),
        training=training,
    )
    return Observation(
        ticket=Ticket(run_id="r", round=0, client_id="c"),
        plan=plan,
        weights={},
        tensors=tensors,
        kind=kind,
        n_examples=3,
        sha256="",
        n_bytes=0,
    )


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_one_local_step_is_a_gradient_in_disguise(mu: float) -> None:
    spec = ModelSpec(name="mlp", input_shape=(6,), options={"hidden": [5]})
    model, params = build(spec), to_tensors(initial_weights(spec, 2))
    inputs = to_tensor(stream(3).random((1, 3, 6), dtype=np.float32))
    labels = torch.tensor([0, 4, 9])
    training = Training(update="delta", batch_size=3, learning_rate=0.05, proximal_mu=mu)
    delta, _ = Backprop().update(model, params, [(inputs, labels)], training, {})
    found = gradient_of(observed(training, "delta", to_arrays(delta)))
    for name, slope in gradient(model, params, inputs, labels).items():
        # a weight near 1 keeps its change to 6e-8, which the division by the rate makes larger
        np.testing.assert_allclose(found[name], slope, atol=1e-5)


def test_one_gradient_is_not_to_be_had_from_several_local_steps() -> None:
    training = Training(update="delta", batch_size=3, local_steps=2)
    with pytest.raises(AttackError, match="2 local steps"):
        gradient_of(observed(training, "delta", {}))


def test_a_client_cannot_inflate_the_batch() -> None:
    claim = replace(observed(Training(batch_size=4), "gradient", {}), n_examples=10**9)
    assert batch_size_of(claim) == 4
    assert batch_size_of(replace(claim, n_examples=3)) == 3


def test_a_start_depends_on_round_client_and_restart_alone() -> None:
    ticket = Ticket(run_id="ann", round=3, client_id="c")
    first = draw_start("normal", 20, seed=1, ticket=ticket, restart=0)
    assert np.array_equal(
        first, draw_start("normal", 20, seed=1, ticket=replace(ticket, run_id="snn"), restart=0)
    )
    for other in (
        draw_start("normal", 20, seed=2, ticket=ticket, restart=0),
        draw_start("normal", 20, seed=1, ticket=replace(ticket, round=4), restart=0),
        draw_start("normal", 20, seed=1, ticket=replace(ticket, client_id="d"), restart=0),
        draw_start("normal", 20, seed=1, ticket=ticket, restart=1),
    ):
        assert not np.array_equal(first, other)
    uniform = draw_start("uniform", 1000, seed=1, ticket=ticket, restart=0)
    assert 0 <= uniform.min() < 0.05
    assert 0.95 < uniform.max() <= 1
