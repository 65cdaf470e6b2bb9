"""Every backend: the same weights and spikes give the reference's logits and update."""

import functools
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_client.backends.base import BACKENDS, Backend  # noqa: E402
from fedcore.errors import PluginError, UpdateError  # noqa: E402
from fedcore.graphs import training_kind  # noqa: E402
from fedcore.nn.arrays import to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient, logits, loss  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import TensorMap  # noqa: E402

pytestmark = pytest.mark.torch

TOLERANCE = 1e-5  # relative, of another backend's float32 sums
N_STEPS, BATCH = 4, 6


def spec(*, spiking: bool) -> ModelSpec:
    return ModelSpec(name="mlp", spiking=spiking, input_shape=(1, 4, 4), options={"hidden": [8]})


def plan(*, spiking: bool, **training: object) -> RoundPlan:
    return RoundPlan(
        run_id="demo",
        round=0,
        experiment_digest="0" * 64,
        model=spec(spiking=spiking),
        weights="0" * 64,
        encoding=EncodingSpec(name="rate", n_steps=N_STEPS),
        training=Training(**training),
    )


@functools.cache
def graphs_of(spiking: bool, update: str) -> dict[str, bytes]:
    """What a device of ONNX is handed, by kind."""
    export = pytest.importorskip("fedcore.nn.export", exc_type=ImportError)
    model = spec(spiking=spiking)
    training = export.export_training if update == "gradient" else export.export_local_step
    return {
        training_kind(Training(update=update)): training(model, n_steps=N_STEPS),
        "inference": export.export_inference(model, n_steps=N_STEPS),
    }


def load(backend: Backend, plan: RoundPlan, weights: TensorMap) -> None:
    """Load a plan as a client does, with the graphs that its backend needs."""
    blobs: dict[str, bytes] = {}
    if type(backend).__name__ == "OnnxBackend":
        found = graphs_of(plan.model.spiking, plan.training.update)
        digests = {kind: hashlib.sha256(blob).hexdigest() for kind, blob in found.items()}
        blobs = {digests[kind]: blob for kind, blob in found.items()}
        plan = replace(plan, graphs=digests)
    backend.load(plan, weights, fetch=blobs.__getitem__)


def spikes(*, n_batches: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(3)
    inputs = [
        (rng.random((N_STEPS, BATCH, 1, 4, 4)) < 0.4).astype(np.float32) for _ in range(n_batches)
    ]
    return inputs, [rng.integers(0, 10, BATCH) for _ in range(n_batches)]


def weights(*, spiking: bool) -> dict[str, np.ndarray]:
    return initial_weights(spec(spiking=spiking), 5)


def test_operations_are_counted_per_layer_or_their_absence_has_a_reason(backend: Backend) -> None:
    (inputs,), _ = spikes(n_batches=1)
    load(backend, plan(spiking=True), weights(spiking=True))
    hidden, readout = backend.count(inputs)
    assert hidden.acs == inputs.sum() / BATCH * 8
    assert hidden.macs == 0
    assert readout.acs == pytest.approx(hidden.spikes * 10)


@pytest.mark.parametrize("name", BACKENDS.names())
def test_a_backend_tells_how_many_threads_it_was_given(name: str) -> None:
    for threads, told in ((2, "2"), (0, "one if reproducible")):
        described = backend_of(name, threads=threads).describe()
        (key,) = [key for key in described if key.endswith("-threads")]
        assert described[key] == told


@pytest.fixture(params=BACKENDS.names())
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_of(request.param, threads=1)


def backend_of(name: str, *, threads: int) -> Backend:
    try:
        return BACKENDS.get(name)(threads=threads)
    except PluginError as error:
        pytest.skip(str(error))


def assert_close(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(
            got[name], tensor, rtol=TOLERANCE, atol=TOLERANCE * np.abs(tensor).max()
        )


def reference_gradient(
    at: dict[str, np.ndarray], inputs: np.ndarray, labels: np.ndarray, *, spiking: bool
) -> dict[str, np.ndarray]:
    found = gradient(
        build(spec(spiking=spiking)), to_tensors(at), to_tensor(inputs), to_tensor(labels)
    )
    return {name: tensor.numpy() for name, tensor in found.items()}


@pytest.mark.parametrize("spiking", [False, True])
def test_a_gradient_is_the_references(backend: Backend, spiking: bool) -> None:
    inputs, labels = spikes(n_batches=1)
    at = weights(spiking=spiking)
    load(backend, plan(spiking=spiking), at)
    expected = reference_gradient(at, inputs[0], labels[0], spiking=spiking)
    assert_close(backend.train(inputs, labels, noise=stream(0)), expected)


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_a_delta_is_local_descent_with_the_proximal_pull(backend: Backend, mu: float) -> None:
    inputs, labels = spikes(n_batches=3)
    at = weights(spiking=True)
    training = {"update": "delta", "local_steps": 3, "learning_rate": 0.5, "proximal_mu": mu}
    load(backend, plan(spiking=True, **training), at)
    local = dict(at)
    for x, y in zip(inputs, labels, strict=True):
        slope = reference_gradient(local, x, y, spiking=True)
        local = {n: w - 0.5 * (slope[n] + mu * (w - at[n])) for n, w in local.items()}
    assert_close(backend.train(inputs, labels, noise=stream(0)), {n: local[n] - at[n] for n in at})


@pytest.mark.parametrize("spiking", [False, True])
def test_accuracy_and_loss_are_the_references(backend: Backend, spiking: bool) -> None:
    (inputs,), (labels,) = spikes(n_batches=1)
    at = weights(spiking=spiking)
    load(backend, plan(spiking=spiking), at)
    found = backend.evaluate(inputs, labels)
    network, params = build(spec(spiking=spiking)), to_tensors(at)
    said = logits(network, params, to_tensor(inputs)).numpy()
    assert found.n_examples == BATCH
    assert found.n_correct == np.sum(said.argmax(axis=1) == labels)
    expected = loss(network, params, to_tensor(inputs), to_tensor(labels)).item()
    assert found.mean_loss == pytest.approx(expected, rel=TOLERANCE)


def test_training_changes_neither_its_inputs_nor_the_weights(backend: Backend) -> None:
    inputs, labels = spikes(n_batches=1)
    at = weights(spiking=True)
    kept = [array.copy() for array in (*inputs, *labels, *at.values())]
    load(backend, plan(spiking=True), at)
    first = backend.train(inputs, labels, noise=stream(0))
    again = backend.train(inputs, labels, noise=stream(0))
    for array, before in zip((*inputs, *labels, *at.values()), kept, strict=True):
        np.testing.assert_array_equal(array, before)
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, again[name])


def test_one_round_leaves_nothing_in_the_next(backend: Backend) -> None:
    """Another model in between must not show in the bits."""
    inputs, labels = spikes(n_batches=1)
    first: dict[str, np.ndarray] = {}
    for spiking in (True, False, True):
        load(backend, plan(spiking=spiking), weights(spiking=spiking))
        update = backend.train(inputs, labels, noise=stream(0))
        if spiking and not first:
            first = update
    assert first
    assert all(np.array_equal(first[name], update[name]) for name in first)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_weights_of_another_model_are_refused_by_name(backend: Backend, fault: str) -> None:
    at = weights(spiking=True)
    if fault == "missing":
        del at["hidden1.bias"]
    elif fault == "extra":
        at["hidden1.extra"] = at["hidden1.bias"]
    else:
        at["hidden1.bias"] = at["hidden1.bias"][:1]
    with pytest.raises(UpdateError, match=r"hidden1\.(bias|extra)"):
        load(backend, plan(spiking=True), at)


@pytest.mark.parametrize("name", BACKENDS.names())
def test_a_fresh_process_computes_the_same_bits(name: str) -> None:
    expected = bits_of(name)
    code = f"import test_backends as t; print(t.bits_of({name!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(("tests/contract", "."))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def bits_of(name: str) -> str:
    """Digest of one update, at the backend's own choice of threads."""
    backend = backend_of(name, threads=0)
    load(backend, plan(spiking=True, batch_size=BATCH), weights(spiking=True))
    update = backend.train(*spikes(n_batches=1), noise=stream(0))
    return hashlib.sha256(b"".join(update[n].tobytes() for n in sorted(update))).hexdigest()
