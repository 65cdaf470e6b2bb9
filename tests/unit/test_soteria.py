"""What is pruned is what tells most of the input, by hand and through the backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_client.backends.torch_backend import TorchBackend  # noqa: E402
from fedcore.defences.soteria import Soteria  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.nn.arrays import to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import features  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.nn.sensitivity import BatchView  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402

pytestmark = pytest.mark.torch

SMOOTH = ModelSpec(name="mlp", activation="tanh", input_shape=(1, 3, 3), options={"hidden": [6]})
SPIKING = replace(SMOOTH, spiking=True, init_gain=3.0)


def batch(*, n_steps: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.random((n_steps, 4, 1, 3, 3), dtype=np.float32), rng.integers(0, 10, 4)


def test_the_slopes_are_those_of_finite_differences() -> None:
    x, _ = batch()
    network, params = build(SMOOTH), to_tensors(initial_weights(SMOOTH, 0))
    values, slopes = BatchView(network, params, to_tensor(x)).sensitivity("readout")
    assert values.shape == slopes.shape == (4, 6)
    params = {name: tensor.double() for name, tensor in params.items()}
    steps = 1e-4 * torch.eye(9, dtype=torch.float64).reshape(9, 1, 1, 1, 3, 3)
    at = to_tensor(x).double()
    differences = [
        features(network, params, at + d) - features(network, params, at - d) for d in steps
    ]
    expected = torch.stack(differences)[:, 0].norm(dim=0) / 2e-4
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)


def test_the_largest_ratios_are_pruned_and_nothing_else() -> None:
    class Batch:
        def sensitivity(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
            return np.array([[1.0, -4.0, 0.0, 2.0]]), np.array([[1.0, 2.0, 0.0, 1.0]])

    sent = {"readout.weight": np.ones((3, 4), np.float32), "readout.bias": np.ones(3, np.float32)}
    got = Soteria(fraction=0.5).informed_update(sent, Batch())
    assert got["readout.weight"].tolist() == [[1, 0, 1, 0]] * 3  # of three that are not silent
    assert got["readout.bias"].all()
    assert Soteria(fraction=0.0).informed_update(sent, Batch())["readout.weight"].all()


@pytest.mark.parametrize("spec", [SMOOTH, SPIKING], ids=["conventional", "spiking"])
def test_a_client_prunes_its_update(spec: ModelSpec) -> None:
    x, y = batch(n_steps=3 if spec.spiking else 1)
    plan = RoundPlan(
        run_id="demo",
        round=0,
        experiment_digest="0" * 64,
        model=spec,
        weights="0" * 64,
        encoding=EncodingSpec(n_steps=len(x)),
        training=Training(batch_size=4),
    )
    sent = []
    for defences in ((), (Choice(name="soteria", options={"fraction": 0.5}),)):
        backend = TorchBackend()
        backend.load(replace(plan, defences=defences), initial_weights(spec, 0))
        sent.append(backend.train([x], [y], noise=stream(0)))
    plain, pruned = sent
    kept = pruned["readout.weight"].any(axis=0)
    assert kept.sum() <= 3
    assert plain["readout.weight"].any(axis=0).sum() > kept.sum()
    np.testing.assert_array_equal(
        pruned["readout.weight"][:, kept], plain["readout.weight"][:, kept]
    )
    for name in plain.keys() - {"readout.weight"}:
        np.testing.assert_array_equal(plain[name], pruned[name])


def test_a_layer_that_is_not_there_is_named() -> None:
    x, _ = batch()
    view = BatchView(build(SMOOTH), to_tensors(initial_weights(SMOOTH, 0)), to_tensor(x))
    with pytest.raises(
        ConfigError, match="no fully connected layer 'fc1'; there are hidden1, read"
    ):
        view.sensitivity("fc1")
