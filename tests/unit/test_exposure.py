"""Exposure against closed forms: a linear model's Jacobian is known, and so is its bound."""

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedcore.defences.dp_sgd import DpSgd  # noqa: E402
from fedcore.layout import RunFolder  # noqa: E402
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import Missing, Observation, Ticket  # noqa: E402
from testbed.exposure import (  # noqa: E402
    Exposures,
    of_update,
    ratio_residual,
    read_exposures,
    write_exposures,
)
from testbed.jacobian import Spectrum, input_spectrum  # noqa: E402
from testbed.mechanism import Mechanism  # noqa: E402
from testbed.report.exposure import exposure_text  # noqa: E402

SHAPE = (1, 4, 4)


def plan_of(model: ModelSpec, *, n_steps: int = 1, **training: object) -> RoundPlan:
    return RoundPlan(
        run_id="exposure",
        round=0,
        experiment_digest="0" * 64,
        model=model,
        weights="0" * 64,
        encoding=EncodingSpec(n_steps=n_steps),
        training=Training(**training),
    )


def mlp(*, spiking: bool = False, hidden: tuple[int, ...] = (20,)) -> ModelSpec:
    return ModelSpec(
        name="mlp",
        spiking=spiking,
        input_shape=SHAPE,
        activation="sigmoid",
        init_gain=3.0,
        options={"hidden": list(hidden)},
    )


def batch(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = stream(5, "exposure", n)
    return rng.random((n, *SHAPE), dtype=np.float32), rng.integers(10, size=n)


def observed(plan: RoundPlan, *, n: int) -> Observation:
    inputs, labels = batch(n)
    weights = initial_weights(plan.model, 3)
    train = to_tensor(inputs).expand(plan.encoding.n_steps, n, *SHAPE)
    sent = gradient(build(plan.model), to_tensors(weights), train, to_tensor(labels))
    return Observation(
        ticket=Ticket(run_id=plan.run_id, round=0, client_id="client-0"),
        plan=plan,
        weights=weights,
        tensors=to_arrays(sent),
        kind="gradient",
        n_examples=n,
        sha256="0" * 64,
        n_bytes=1,
    )


def spectrum_of(
    plan: RoundPlan, *, n: int = 1, n_directions: int = 64, **more: Mechanism
) -> Spectrum | Missing:
    inputs, labels = batch(n)
    return input_spectrum(
        plan,
        initial_weights(plan.model, 3),
        inputs=inputs,
        encoded_input=np.repeat(inputs[None], plan.encoding.n_steps, axis=0),
        labels=labels,
        n_directions=n_directions,
        rng=stream(1, "directions"),
        **more,
    )


@pytest.mark.parametrize("n", [1, 3])
def test_the_first_layer_has_the_rank_of_its_batch(n: int) -> None:
    row = of_update(observed(plan_of(mlp()), n=n))
    assert row.first_layer_rank == n == row.n_frames
    assert row.rank_limit == 16


@pytest.mark.parametrize(("n", "is_peelable"), [(1, True), (4, False)])
def test_the_ratio_certifies_one_example_and_not_a_batch(n: int, is_peelable: bool) -> None:
    row = of_update(observed(plan_of(mlp()), n=n))
    assert row.is_peelable is is_peelable
    assert (row.ratio_residual < 1e-5) is is_peelable


def test_one_spiking_example_can_be_peeled_too() -> None:
    row = of_update(observed(plan_of(mlp(spiking=True), n_steps=4), n=1))
    assert row.is_peelable
    assert row.is_surrogate


def test_a_readout_without_a_ratio_says_so() -> None:
    assert isinstance(ratio_residual({"readout.weight": np.ones((3, 2))}), Missing)
    zero = {"readout.weight": np.zeros((3, 2)), "readout.bias": np.zeros(3)}
    assert isinstance(ratio_residual(zero), Missing)


def test_zeros_and_norm_are_counted_over_all_tensors() -> None:
    seen = observed(plan_of(mlp()), n=1)
    shown = {"a.weight": np.array([[3.0, 0.0]]), "b.bias": np.array([0.0, 4.0])}
    row = of_update(dataclasses.replace(seen, tensors=shown))
    assert row.zero_share == 0.5
    assert row.norm == pytest.approx(5)
    assert isinstance(row.ratio_residual, Missing)


def test_without_the_truth_only_the_jacobian_is_missing() -> None:
    row = of_update(observed(plan_of(mlp()), n=1))
    assert isinstance(row.effective_rank, Missing)
    assert isinstance(row.crb_mse, Missing)


def test_the_spectrum_is_that_of_finite_differences() -> None:
    """Every column by two gradients in float64, on the smooth network."""
    plan = plan_of(mlp())
    inputs, labels = batch(1)
    network = build(plan.model)
    params = {n: t.double() for n, t in to_tensors(initial_weights(plan.model, 3)).items()}

    def update(flat: np.ndarray) -> np.ndarray:
        train = torch.from_numpy(flat.reshape(1, 1, *SHAPE))
        sent = gradient(network, params, train, to_tensor(labels))
        return np.concatenate([t.flatten().numpy() for t in sent.values()])

    at, step = inputs.astype(np.float64).ravel(), 1e-5
    columns = [(update(at + step * e) - update(at - step * e)) / (2 * step) for e in np.eye(16)]
    found = spectrum_of(plan)
    assert isinstance(found, Spectrum)
    oracle = np.linalg.svd(np.stack(columns), compute_uv=False)
    np.testing.assert_allclose(found.singular_values, oracle, rtol=1e-3)
    information = np.stack(columns) @ np.stack(columns).T
    np.testing.assert_allclose(
        found.inverse_information, np.diag(np.linalg.inv(information)), rtol=1e-2
    )
    assert 1 < found.effective_rank <= 16


def test_noise_on_the_update_scales_the_bound() -> None:
    noise = Mechanism(names=("gaussian",), sigma=0.2)
    for training in ({}, {"update": "delta", "learning_rate": 0.5}):
        found = spectrum_of(plan_of(mlp(), **training), n=2, n_directions=8, mechanism=noise)
        assert isinstance(found, Spectrum)
        np.testing.assert_allclose(found.bound.least_mse, 0.04 * found.inverse_information)


def test_the_bound_behind_dp_sgd_is_that_of_finite_differences() -> None:
    """Two examples, clipped as the defence clips them, in float64 on the smooth network."""
    plan, defence = plan_of(mlp()), DpSgd(max_norm=0.5, noise_multiplier=1.0, batch_size=2)
    inputs, labels = batch(2)
    network = build(plan.model)
    params = {n: t.double() for n, t in to_tensors(initial_weights(plan.model, 3)).items()}

    def sent(flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat.reshape(1, 2, *SHAPE))
        alone = [
            torch.cat([t.flatten() for t in slopes.values()]).numpy()
            for slopes in (
                gradient(network, params, x[:, i : i + 1], to_tensor(labels[i : i + 1]))
                for i in range(2)
            )
        ]
        return defence.example_gradients({"all": np.stack(alone)})["all"].mean(axis=0)

    at, step = inputs.astype(np.float64).ravel(), 1e-4
    assert np.linalg.norm(sent(at)) > 0.3  # both are clipped, or nearly
    rows = [(sent(at + step * e) - sent(at - step * e)) / (2 * step) for e in np.eye(32)]
    oracle = np.diag(np.linalg.inv(np.stack(rows) @ np.stack(rows).T / defence.sigma**2))
    mechanism = Mechanism(names=("dp-sgd",), per_example=defence, sigma=defence.sigma)
    found = spectrum_of(plan, n=2, mechanism=mechanism)
    assert isinstance(found, Spectrum)
    np.testing.assert_allclose(found.bound.least_mse, oracle, rtol=0.05)


def test_fewer_directions_never_raise_the_bound() -> None:
    """The values that are left out count as known."""
    whole, part = spectrum_of(plan_of(mlp())), spectrum_of(plan_of(mlp()), n_directions=8)
    assert isinstance(whole, Spectrum)
    assert isinstance(part, Spectrum)
    chosen = np.sort(stream(1, "directions").permutation(16)[:8])
    assert len(part.singular_values) == 8
    assert (part.inverse_information <= whole.inverse_information[chosen] * (1 + 1e-3)).all()
    assert part.singular_values[-1] >= whole.singular_values[-1] * (1 - 1e-4)  # interlacing


def test_a_delta_of_one_step_is_the_gradient_times_the_rate() -> None:
    one = spectrum_of(plan_of(mlp()))
    delta = spectrum_of(plan_of(mlp(), update="delta", learning_rate=0.5))
    assert isinstance(one, Spectrum)
    assert isinstance(delta, Spectrum)
    np.testing.assert_allclose(delta.singular_values, one.singular_values / 2, rtol=1e-5)


def test_several_local_steps_are_refused_with_the_reason() -> None:
    found = spectrum_of(plan_of(mlp(), update="delta", local_steps=2))
    assert isinstance(found, Missing)
    assert "local steps" in found.why


def test_a_pixel_that_moves_nothing_leaves_no_bound() -> None:
    plan = plan_of(ModelSpec(name="mlp", input_shape=SHAPE, options={"hidden": [20]}))
    weights = {n: np.zeros_like(w) for n, w in initial_weights(plan.model, 3).items()}
    inputs, labels = batch(1)
    found = input_spectrum(
        plan,
        weights,
        inputs=inputs,
        encoded_input=inputs[None],
        labels=labels,
        n_directions=16,
        rng=stream(1, "directions"),
    )
    assert isinstance(found, Spectrum)
    assert isinstance(found.inverse_information, Missing)
    assert found.effective_rank == 0


def test_an_encoded_train_is_differentiated_step_by_step() -> None:
    plan = dataclasses.replace(
        plan_of(mlp(spiking=True)), encoding=EncodingSpec(name="rate", n_steps=3)
    )
    found = spectrum_of(plan, n=2, n_directions=10)
    assert isinstance(found, Spectrum)
    assert (found.of, found.n_inputs, len(found.singular_values)) == ("encoded", 3 * 2 * 16, 10)


def test_what_is_written_is_read_and_shown(tmp_path) -> None:
    run, row = RunFolder(tmp_path), of_update(observed(plan_of(mlp()), n=1))
    assert read_exposures(run, "exposure") == ()
    write_exposures(Exposures(run_id="exposure", arm="ann", rows=(row,)), run)
    assert read_exposures(run, "exposure") == (row,)
    text = exposure_text({"ann": (row,), "none": ()})
    assert "1 of 1" in text
    assert math.isfinite(row.norm)
