"""Exported graphs compute what torch computes, whatever the model, and say what they are."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks.edge_parity import cases, differences, sample, session  # noqa: E402
from edge_client.backends.onnx_graph import check_graph  # noqa: E402
from fedcore.graphs import FORMAT, FORMAT_KEY, MODEL_KEY  # noqa: E402
from fedcore.nn.arrays import to_array, to_arrays, to_tensors  # noqa: E402
from fedcore.nn.export import (  # noqa: E402
    export_inference,
    export_local_step,
    export_training,
    refusal,
)
from fedcore.nn.functional import loss_and_gradient, run  # noqa: E402
from fedcore.nn.learning_rules.backprop import Backprop  # noqa: E402
from fedcore.nn.learning_rules.base import Batch  # noqa: E402
from fedcore.nn.models import MODELS, architecture, build, initial_weights  # noqa: E402
from fedcore.nn.neurons import NEURONS  # noqa: E402
from fedcore.nn.surrogates import SURROGATES  # noqa: E402
from fedcore.plan import Choice, ModelSpec, NeuronSpec, Training  # noqa: E402
from fedcore.strict import digest  # noqa: E402

pytestmark = pytest.mark.torch

SPEC = ModelSpec(
    name="mlp",
    spiking=True,
    input_shape=(6,),
    n_classes=3,
    neuron=NeuronSpec(sharpness=2.0),
    init_gain=4.0,
    options={"hidden": [5]},
)
STEPS = 3


def weights(spec: ModelSpec = SPEC, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {n: w.to(dtype) for n, w in to_tensors(initial_weights(spec, 2)).items()}


def batch(size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.rand(STEPS, size, *SPEC.input_shape, generator=draw).to(dtype)
    return Batch(inputs, torch.randint(0, SPEC.n_classes, (size,), generator=draw))


def say(graph: bytes, fed: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    running = session(graph)
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, to_arrays(fed)), strict=True))


def assert_same(found: np.ndarray, expected: torch.Tensor) -> None:
    assert found.dtype == to_array(expected).dtype
    np.testing.assert_allclose(found, to_array(expected), rtol=1e-9, atol=1e-12)


def named(spec: ModelSpec) -> str:
    return f"{spec.name}-{spec.neuron.name if spec.spiking else spec.activation}"


@pytest.mark.parametrize("spec", list(sample()), ids=named)
def test_loss_and_gradients_are_torchs_in_every_encoding(spec: ModelSpec) -> None:
    for difference in differences(spec, torch.float64):
        assert difference.agrees
        assert not difference.silent, "zeros agree with anything"


def test_in_float32_they_are_up_to_the_order_of_sums() -> None:
    spec = ModelSpec(name="convnet", spiking=True, options={"channels": [4, 4]}, init_gain=4.0)
    for difference in differences(spec, torch.float32):
        assert difference.largest > 0
        assert difference.agrees or difference.close


def test_the_sample_leaves_nothing_out() -> None:
    seen = list(sample())
    spiking = [spec for spec in seen if spec.spiking]
    assert {spec.name for spec in spiking} == set(MODELS.names())
    assert {spec.readout for spec in spiking} == {spec.readout for spec in cases()}
    assert {spec.neuron.name for spec in spiking} == set(NEURONS.names())
    assert {spec.neuron.surrogate for spec in spiking} == set(SURROGATES)
    assert {(s.neuron.reset, s.neuron.detach_reset) for s in spiking} == {
        (reset, detach) for reset in ("subtract", "zero") for detach in (False, True)
    }
    assert {s.activation for s in seen if not s.spiking} == {"relu", "sigmoid", "tanh"}


def test_one_graph_takes_any_number_of_examples() -> None:
    graph = export_training(SPEC, n_steps=STEPS, dtype=torch.float64)
    for size in (1, 2, 7):
        here = batch(size)
        loss, slopes = loss_and_gradient(build(SPEC), weights(), *here)
        said = say(graph, {**weights(), "inputs": here.inputs, "labels": here.labels})
        assert list(said) == ["loss", *(f"gradient/{name}" for name in slopes)]
        assert_same(said["loss"], loss)
        for name, slope in slopes.items():
            assert_same(said[f"gradient/{name}"], slope)


def test_local_steps_one_after_the_other_are_backprops() -> None:
    training = Training(update="delta", local_steps=3, learning_rate=0.3, proximal_mu=0.7)
    batches = [batch(4, seed) for seed in range(3)]
    start = weights()
    expected, _ = Backprop().update(build(SPEC), start, batches, training, {})
    graph, local = export_local_step(SPEC, n_steps=STEPS, dtype=torch.float64), dict(start)
    for here in batches:
        fed = {
            **local,
            **{f"global/{name}": tensor for name, tensor in start.items()},
            "inputs": here.inputs,
            "labels": here.labels,
            "learning_rate": torch.tensor(0.3, dtype=torch.float64),
            "proximal_mu": torch.tensor(0.7, dtype=torch.float64),
        }
        said = say(graph, fed)
        local = {name: torch.tensor(said[f"next/{name}"]) for name in start}
    for name, change in expected.items():
        assert_same(to_array(local[name] - start[name]), change)


@pytest.mark.parametrize("readout", ["membrane_mean", "per_step"])
def test_inference_says_logits_and_what_layers_receive(readout: str) -> None:
    spec = ModelSpec(**{**vars(SPEC), "readout": readout})
    inputs = batch(4).inputs
    said = say(
        export_inference(spec, n_steps=STEPS, dtype=torch.float64), {**weights(), "inputs": inputs}
    )
    expected = run(build(spec), weights(), inputs)
    assert list(said) == ["logits", *(f"received/{name}" for name in expected.received)]
    assert_same(said["logits"], expected.logits)
    for name, received in expected.received.items():
        assert_same(said[f"received/{name}"], received)


@pytest.mark.parametrize("export", [export_training, export_local_step, export_inference])
def test_a_graph_is_self_contained_and_names_its_model(export) -> None:
    graph = export(SPEC, n_steps=1)
    check_graph(graph)
    model = onnx.load_model_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    told = {prop.key: prop.value for prop in model.metadata_props}
    assert (told[FORMAT_KEY], told[MODEL_KEY]) == (FORMAT, digest(SPEC))
    again = export(SPEC, n_steps=1)
    assert hashlib.sha256(again).digest() == hashlib.sha256(graph).digest()


def test_another_rule_and_a_view_of_the_batch_are_refused_by_name() -> None:
    assert refusal(SPEC, Training(), [], n_steps=2) is None
    options = {"max_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 8}
    assert refusal(SPEC, Training(), [Choice(name="dp-sgd", options=options)], n_steps=2) is None
    assert refusal(SPEC, Training(rule="e-prop"), [], n_steps=2) == (
        "learning rule 'e-prop' is not exported to ONNX, only 'backprop' is"
    )
    assert refusal(SPEC, Training(), [Choice(name="soteria")], n_steps=2) == (
        "defence 'soteria' asks how the network answers to its inputs, which is not exported to "
        "ONNX"
    )


class Sorting(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(-1).values


class Peeking(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Counting(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if len(x) > 4 else x.tanh()  # of two steps


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (Sorting, "torch's operator aten.sort.default has no ONNX translation"),
        (Peeking, "torch cannot trace it"),
        (Counting, "which operators run depends on the batch size"),
    ],
)
def test_a_model_that_cannot_be_traced_is_refused_by_what_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch, layer: type, says: str
) -> None:
    monkeypatch.setitem(architecture._ACTIVATIONS, "relu", layer)
    plain = ModelSpec(name="mlp", input_shape=(6,), n_classes=3, options={"hidden": [5]})
    line = refusal(plain, Training(), [], n_steps=2)
    assert line is not None
    assert line.startswith("model 'mlp' cannot be exported to ONNX: ")
    assert says in line
    assert "\n" not in line
