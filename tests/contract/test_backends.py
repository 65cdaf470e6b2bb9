"""Every backend: the same weights and spikes give the reference's logits and update."""

import functools
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_client.backends.base import BACKENDS, Backend  # noqa: E402
from edge_client.backends.lava.limits import refusal  # noqa: E402
from fedcore.errors import PluginError, UpdateError  # noqa: E402
from fedcore.graphs import training_kind  # noqa: E402
from fedcore.nn.arrays import to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient, logits, loss  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, NeuronSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import TensorMap  # noqa: E402

pytestmark = pytest.mark.torch

TOLERANCE = 1e-5  # relative, of another backend's float32 sums
N_STEPS, BATCH = 4, 6


ANN = ModelSpec(name="mlp", input_shape=(1, 4, 4), options={"hidden": [8]})
CUBA = NeuronSpec(name="slayer-cuba", reset="zero", surrogate="exponential", sharpness=0.5)
AT_ONCE = replace(CUBA, options={"delay_shift": False})
DELAYED = replace(CUBA, options={"delay_shift": False, "delay": True})
SPECS = {
    "ann": ANN,
    "snn": replace(ANN, spiking=True),
    "cuba": replace(ANN, spiking=True, readout="spike_count", neuron=CUBA, init_gain=8.0),
    "cuba-at-once": replace(ANN, spiking=True, readout="spike_count", neuron=AT_ONCE),
    "cuba-delayed": replace(
        ANN, spiking=True, readout="spike_count", neuron=DELAYED, init_gain=8.0
    ),
}


def plan(kind: str, **training: object) -> RoundPlan:
    return RoundPlan(
        run_id="demo",
        round=0,
        experiment_digest="0" * 64,
        model=SPECS[kind],
        weights="0" * 64,
        encoding=EncodingSpec(name="rate", n_steps=N_STEPS),
        training=Training(**training),
    )


@functools.cache
def graphs_of(kind: str, update: str) -> dict[str, bytes]:
    """What a device of ONNX is handed, by kind."""
    export = pytest.importorskip("fedcore.nn.export", exc_type=ImportError)
    model = SPECS[kind]
    training = export.export_training if update == "gradient" else export.export_local_step
    return {
        training_kind(Training(update=update)): training(model, n_steps=N_STEPS),
        "inference": export.export_inference(model, n_steps=N_STEPS),
    }


def load(backend: Backend, plan: RoundPlan, weights: TensorMap) -> None:
    """Load a plan as a client does, with the graphs that its backend needs."""
    blobs: dict[str, bytes] = {}
    if name_of(backend) == "lava" and (reason := refusal(plan.model)):
        pytest.skip(reason)
    if name_of(backend) == "onnx":
        trained = next(kind for kind, spec in SPECS.items() if spec == plan.model)
        found = graphs_of(trained, plan.training.update)
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


def weights(kind: str) -> dict[str, np.ndarray]:
    drawn = initial_weights(SPECS[kind], 5)
    return {n: N_STEPS * w if n.endswith(".delay") else w for n, w in drawn.items()}


def test_operations_are_counted_per_layer_or_their_absence_has_a_reason(
    backend: Backend, kind: str
) -> None:
    (inputs,), _ = spikes(n_batches=1)
    load(backend, plan(kind), weights(kind))
    hidden, readout = backend.count(inputs)
    assert hidden.acs == inputs.sum() / BATCH * 8
    assert hidden.macs == 0
    assert readout.acs == pytest.approx(hidden.spikes * 10)


@pytest.mark.parametrize("name", BACKENDS.names())
def test_a_backend_tells_on_what_it_computes(name: str) -> None:
    for threads, told in ((2, "2"), (0, "one if reproducible")):
        computing = backend_of(name, threads=threads).computing
        assert computing.threads == told
        assert [provider.lower()[:3] for provider in computing.providers] == ["cpu"]


@pytest.mark.parametrize("name", BACKENDS.names())
def test_a_backend_tells_its_versions(name: str) -> None:
    for distribution, version in backend_of(name, threads=1).versions.items():
        assert version.partition("+")[0] == importlib.metadata.version(distribution)


@pytest.fixture(params=BACKENDS.names())
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_of(request.param, threads=1)


@pytest.fixture
def kind(backend: Backend) -> str:
    return spiking(name_of(backend))


def spiking(name: str) -> str:
    """A spiking network that a backend can train."""
    return "cuba" if name == "lava" else "snn"


def name_of(backend: Backend) -> str:
    return type(backend).__name__.removesuffix("Backend").lower()


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
    at: dict[str, np.ndarray], inputs: np.ndarray, labels: np.ndarray, *, kind: str
) -> dict[str, np.ndarray]:
    found = gradient(build(SPECS[kind]), to_tensors(at), to_tensor(inputs), to_tensor(labels))
    return {name: tensor.numpy() for name, tensor in found.items()}


@pytest.mark.parametrize("kind", SPECS)
def test_a_gradient_is_the_references(backend: Backend, kind: str) -> None:
    inputs, labels = spikes(n_batches=1)
    at = weights(kind)
    load(backend, plan(kind), at)
    expected = reference_gradient(at, inputs[0], labels[0], kind=kind)
    assert_close(backend.train(inputs, labels, noise=stream(0)), expected)


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_a_delta_is_local_descent_with_the_proximal_pull(
    backend: Backend, kind: str, mu: float
) -> None:
    inputs, labels = spikes(n_batches=3)
    at = weights(kind)
    training = {"update": "delta", "local_steps": 3, "learning_rate": 0.5, "proximal_mu": mu}
    load(backend, plan(kind, **training), at)
    local = dict(at)
    for x, y in zip(inputs, labels, strict=True):
        slope = reference_gradient(local, x, y, kind=kind)
        local = {n: w - 0.5 * (slope[n] + mu * (w - at[n])) for n, w in local.items()}
    assert_close(backend.train(inputs, labels, noise=stream(0)), {n: local[n] - at[n] for n in at})


@pytest.mark.parametrize("kind", SPECS)
def test_accuracy_and_loss_are_the_references(backend: Backend, kind: str) -> None:
    (inputs,), (labels,) = spikes(n_batches=1)
    at = weights(kind)
    load(backend, plan(kind), at)
    found = backend.evaluate(inputs, labels)
    network, params = build(SPECS[kind]), to_tensors(at)
    said = logits(network, params, to_tensor(inputs)).numpy()
    assert found.n_examples == BATCH
    assert found.n_correct == np.sum(said.argmax(axis=1) == labels)
    expected = loss(network, params, to_tensor(inputs), to_tensor(labels)).item()
    assert found.mean_loss == pytest.approx(expected, rel=TOLERANCE)


def test_training_changes_neither_its_inputs_nor_the_weights(backend: Backend, kind: str) -> None:
    inputs, labels = spikes(n_batches=1)
    at = weights(kind)
    kept = [array.copy() for array in (*inputs, *labels, *at.values())]
    load(backend, plan(kind), at)
    first = backend.train(inputs, labels, noise=stream(0))
    again = backend.train(inputs, labels, noise=stream(0))
    for array, before in zip((*inputs, *labels, *at.values()), kept, strict=True):
        np.testing.assert_array_equal(array, before)
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, again[name])


def test_one_round_leaves_nothing_in_the_next(backend: Backend, kind: str) -> None:
    """Another model in between must not show in the bits."""
    inputs, labels = spikes(n_batches=1)
    first: dict[str, np.ndarray] = {}
    for loaded in (kind, "cuba-at-once", kind):
        load(backend, plan(loaded), weights(loaded))
        update = backend.train(inputs, labels, noise=stream(0))
        first = first or update
    assert first
    assert all(np.array_equal(first[name], update[name]) for name in first)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_weights_of_another_model_are_refused_by_name(
    backend: Backend, kind: str, fault: str
) -> None:
    at = weights(kind)
    if fault == "missing":
        del at["hidden1.weight"]
    elif fault == "extra":
        at["hidden1.extra"] = at["hidden1.weight"]
    else:
        at["hidden1.weight"] = at["hidden1.weight"][:1]
    with pytest.raises(UpdateError, match=r"hidden1\.(weight|extra)"):
        load(backend, plan(kind), at)


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
    assert done.stdout.split()[-1] == expected  # lava-dl has something to say before


def bits_of(name: str) -> str:
    """Digest of one update, at the backend's own choice of threads."""
    backend = backend_of(name, threads=0)
    kind = spiking(name)
    load(backend, plan(kind, batch_size=BATCH), weights(kind))
    update = backend.train(*spikes(n_batches=1), noise=stream(0))
    return hashlib.sha256(b"".join(update[n].tobytes() for n in sorted(update))).hexdigest()
