"""The ONNX backend: what it lets in, what it keeps, and that it says what torch's says."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

from edge_client.backends.onnx_backend import OnnxBackend  # noqa: E402
from edge_client.backends.onnx_graph import check_graph  # noqa: E402
from edge_client.backends.onnx_int8 import quantised  # noqa: E402
from edge_client.backends.torch_backend import TorchBackend  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.graphs import GraphLayer  # noqa: E402
from fedcore.nn.export import export_inference, export_int8, export_training  # noqa: E402
from fedcore.nn.models import initial_weights  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402

pytestmark = pytest.mark.torch

N_STEPS, N_EXAMPLES = 3, 5
SPEC = ModelSpec(name="convnet", spiking=True, input_shape=(1, 8, 8), init_gain=3.0)


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    inputs = (rng.random((N_STEPS, N_EXAMPLES, 1, 8, 8)) < 0.4).astype(np.float32)
    return inputs, rng.integers(0, 10, N_EXAMPLES)


class Shelf:
    """Graphs of a model by digest, and how often they were asked for."""

    def __init__(self, spec: ModelSpec) -> None:
        made = {"training": export_training, "inference": export_inference}
        blobs = {kind: export(spec, n_steps=N_STEPS) for kind, export in made.items()}
        self.digests = {kind: hashlib.sha256(blob).hexdigest() for kind, blob in blobs.items()}
        self._blobs = {self.digests[kind]: blob for kind, blob in blobs.items()}
        self.n_fetched = 0
        self.plan = RoundPlan(
            run_id="demo",
            round=0,
            experiment_digest="0" * 64,
            model=spec,
            weights="0" * 64,
            encoding=EncodingSpec(name="rate", n_steps=N_STEPS),
            training=Training(batch_size=N_EXAMPLES),
            graphs=self.digests,
        )

    def fetch(self, sha256: str) -> bytes:
        self.n_fetched += 1
        return self._blobs[sha256]


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf(SPEC)


@pytest.mark.parametrize("readout", ["membrane_mean", "per_step", "spike_count"])
@pytest.mark.parametrize("name", ["convnet", "bottleneck"])
def test_evaluation_and_operations_are_those_of_torch(name: str, readout: str) -> None:
    spec = replace(SPEC, name=name, readout=readout)
    shelf, (inputs, labels) = Shelf(spec), batch()
    weights = initial_weights(spec, 1)
    ours, torchs = OnnxBackend(threads=1), TorchBackend(threads=1)
    ours.load(shelf.plan, weights, fetch=shelf.fetch)
    torchs.load(shelf.plan, weights)
    found, expected = ours.evaluate(inputs, labels), torchs.evaluate(inputs, labels)
    assert found.n_correct == expected.n_correct
    assert found.mean_loss == pytest.approx(expected.mean_loss, rel=1e-5)
    for layer, same in zip(ours.count(inputs), torchs.count(inputs), strict=True):
        assert layer == replace(
            same, spikes=pytest.approx(same.spikes), acs=pytest.approx(same.acs)
        )


def test_defences_on_examples_are_those_of_torch(shelf: Shelf) -> None:
    """Clipping takes place per example, so that it needs each one's own gradient."""
    options = {"max_norm": 0.1, "noise_multiplier": 0.0, "batch_size": N_EXAMPLES}
    plan = replace(shelf.plan, defences=(Choice(name="dp-sgd", options=options),))
    weights, (inputs, labels) = initial_weights(SPEC, 1), batch()
    updates = []
    for backend in (OnnxBackend(threads=1), TorchBackend(threads=1)):
        backend.load(plan, weights, fetch=shelf.fetch)
        updates.append(backend.train([inputs], [labels], noise=stream(0)))
    for name, expected in updates[1].items():
        np.testing.assert_allclose(updates[0][name], expected, rtol=1e-4, atol=1e-6)


def test_a_graph_is_fetched_once_and_its_session_stays(shelf: Shelf) -> None:
    backend, weights = OnnxBackend(), initial_weights(SPEC, 1)
    before = shelf.n_fetched
    for number in range(3):
        backend.load(replace(shelf.plan, round=number), weights, fetch=shelf.fetch)
    assert shelf.n_fetched == before + 2


def test_graphs_that_do_not_fit_the_plan(shelf: Shelf) -> None:
    weights = initial_weights(SPEC, 1)
    with pytest.raises(ConfigError, match="names no training graph; prepare the run"):
        OnnxBackend().load(replace(shelf.plan, graphs={}), weights, fetch=shelf.fetch)
    other = replace(shelf.plan, model=replace(SPEC, n_classes=9))
    with pytest.raises(ConfigError, match="graph is of model"):
        OnnxBackend().load(other, weights, fetch=shelf.fetch)
    with pytest.raises(ConfigError, match="accelerator: got 'NoProvider', this onnxruntime has"):
        OnnxBackend(accelerator="NoProvider")


def model_of(*nodes: onnx.NodeProto, initializer: tuple = (), **kwargs: object) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "g", [value], [value], initializer=initializer)
    return helper.make_model(graph, **kwargs).SerializeToString()


def outside_tensor() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


RELU = helper.make_node("Relu", ["x"], ["y"])
BODY = helper.make_graph([RELU], "body", [], [])


@pytest.mark.parametrize(
    ("blob", "expected"),
    [
        (b"", "no ONNX model"),
        (b"not a model", "damaged"),
        (model_of(helper.make_node("Loop", [], ["y"], body=BODY)), "operator 'Loop'"),
        (model_of(helper.make_node("Relu", ["x"], ["y"], domain="evil")), "operator 'evil::Relu'"),
        (model_of(helper.make_node("RandomNormal", [], ["y"], shape=[1])), "'RandomNormal'"),
        (model_of(helper.make_node("Relu", ["x"], ["y"], body=BODY)), "a graph of its own"),
        (model_of(RELU, initializer=(outside_tensor(),)), "in another file"),
        (model_of(helper.make_node("Constant", [], ["y"], value=outside_tensor())), "another file"),
        (
            model_of(RELU, functions=[helper.make_function("evil", "f", ["x"], ["y"], [RELU], [])]),
            "functions of its own",
        ),
    ],
)
def test_a_graph_that_is_more_than_arithmetic_is_refused(blob: bytes, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        check_graph(blob)


def test_plain_arithmetic_passes() -> None:
    check_graph(model_of(RELU))


def test_the_backend_needs_no_torch() -> None:
    code = "import edge_client.backends.onnx_backend, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_int8_form_is_compared_with_the_trained_one(shelf: Shelf) -> None:
    backend, (inputs, labels) = OnnxBackend(threads=1), batch()
    backend.load(shelf.plan, initial_weights(SPEC, 1), fetch=shelf.fetch)
    assert not backend.deploys
    blob = export_int8(SPEC, n_steps=N_STEPS)
    sha256 = hashlib.sha256(blob).hexdigest()
    plan = replace(shelf.plan, graphs={**shelf.digests, "int8": sha256})
    backend.load(
        plan,
        initial_weights(SPEC, 1),
        fetch=lambda wanted: blob if wanted == sha256 else shelf.fetch(wanted),
    )
    assert backend.deploys
    (small,) = backend.profile(inputs, labels)
    assert (small.form, small.n_examples, small.exact) == ("int8", N_EXAMPLES, False)
    classes, *trains = small.agreements
    assert classes.n_compared == N_EXAMPLES
    assert [train.what for train in trains] == ["spikes of conv1", "spikes of conv2"]
    for train, layer in zip(trains, backend.count(inputs), strict=False):
        assert train.n_compared == layer.neurons * N_STEPS * N_EXAMPLES
        assert train.n_differing < 0.05 * train.n_compared
    first = small.operations[0]
    assert first.acs <= backend.count(inputs)[0].acs  # weights that became 0 do nothing


@pytest.mark.parametrize("analog", [False, True])
def test_weights_and_ranges_of_8_bits(analog: bool) -> None:
    rng = np.random.default_rng(0)
    weights = {"a.weight": rng.normal(size=(3, 4)).astype(np.float32), "a.bias": np.ones(3)}
    weights["a.weight"][2] = 0.0  # a channel that was never used
    layer = GraphLayer(name="a", kind="dense", neurons=3, spiking=True)
    received = rng.normal(size=(2, 5, 4)) if analog else rng.integers(0, 2, (2, 5, 4))
    feed = quantised(weights, [layer], {"a": received.astype(np.float32)})
    assert feed["a.weight"].dtype == np.int8
    back = feed["a.weight"] * feed["a.weight_scale"][:, None]
    assert np.all(np.abs(back - weights["a.weight"]) <= feed["a.weight_scale"][:, None] / 2 + 1e-7)
    assert np.abs(feed["a.weight"][:2]).max(axis=1).tolist() == [127, 127]
    scale, zero = feed["a.input_scale"], int(feed["a.input_zero"])
    if not analog:
        assert (scale, zero) == (1, 0)
    codes = np.clip(np.rint(received / scale) + zero, 0, 255)
    assert np.abs((codes - zero) * scale - received).max() <= scale
    assert feed["a.bias"] is weights["a.bias"]
