"""What only the torch backend promises: random layers and defences on example gradients."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_client.backends.torch_backend import TorchBackend  # noqa: E402
from fedcore.defences.base import DEFENCES, Defence  # noqa: E402
from fedcore.defences.precode import Precode  # noqa: E402
from fedcore.energy import DIVERGED  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.nn.arrays import to_tensor, to_tensors  # noqa: E402
from fedcore.nn.functional import gradient, loss  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import TensorMap  # noqa: E402

pytestmark = pytest.mark.torch

SPEC = ModelSpec(name="mlp", input_shape=(1, 3, 3), n_classes=3, options={"hidden": [4]})
PLAN = RoundPlan(
    run_id="demo",
    round=0,
    experiment_digest="0" * 64,
    model=SPEC,
    weights="0" * 64,
    encoding=EncodingSpec(),
    training=Training(batch_size=5),
)


@dataclass(frozen=True, kw_only=True)
class OnlyFirst(Defence):
    """Forgets every example but the first."""

    def example_gradients(self, gradients: TensorMap) -> TensorMap:
        return {name: np.repeat(t[:1], len(t), axis=0) for name, t in gradients.items()}


@pytest.fixture
def defended(monkeypatch: pytest.MonkeyPatch) -> RoundPlan:
    monkeypatch.setitem(DEFENCES._where, "only-first", f"{__name__}:{OnlyFirst.__name__}")
    return PLAN


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.random((1, 5, 1, 3, 3), dtype=np.float32), rng.integers(0, 3, 5)


def update(plan: RoundPlan, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    backend = TorchBackend()
    backend.load(plan, initial_weights(plan.model, 1))
    return backend.train([x], [y], noise=stream(7))


@pytest.mark.parametrize("spiking", [False, True])
def test_random_layers_draw_from_the_clients_stream_and_not_in_evaluation(spiking: bool) -> None:
    spec = Precode(size=6).model(replace(SPEC, spiking=spiking, init_gain=3.0))
    plan, (x, y) = replace(PLAN, model=spec), batch()
    network, params = build(spec), to_tensors(initial_weights(spec, 1))
    assert network.n_draws == 6
    draws = to_tensor(stream(7).standard_normal((1, 5, 6)).astype(np.float32))
    expected = gradient(network, params, to_tensor(x), to_tensor(y), draws)
    means = gradient(network, params, to_tensor(x), to_tensor(y))
    for name, tensor in update(plan, x, y).items():
        np.testing.assert_array_equal(tensor, expected[name])
    assert not torch.equal(expected["readout.weight"], means["readout.weight"])
    backend = TorchBackend()
    backend.load(plan, initial_weights(spec, 1))
    at_means = float(loss(network, params, to_tensor(x), to_tensor(y)))
    assert backend.evaluate(x, y).mean_loss == pytest.approx(at_means)


def test_examples_alone_have_the_draws_that_they_have_in_their_batch() -> None:
    plan = replace(PLAN, model=Precode(size=6).model(SPEC))
    whole = update(plan, *batch())
    harmless = {"max_norm": 1e9, "noise_multiplier": 0.0, "batch_size": 5}
    alone = update(replace(plan, defences=(Choice(name="dp-sgd", options=harmless),)), *batch())
    for name, tensor in whole.items():
        np.testing.assert_allclose(alone[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_diverged_model_has_an_accuracy_and_no_loss() -> None:
    x, y = batch()
    backend = TorchBackend()
    backend.load(PLAN, {n: np.full_like(w, 1e38) for n, w in initial_weights(SPEC, 1).items()})
    found = backend.evaluate(x, y)
    assert found.mean_loss == DIVERGED
    assert found.n_examples == len(y)


def test_example_gradients_are_those_of_each_example_alone(defended: RoundPlan) -> None:
    x, y = batch()
    only_first = replace(defended, defences=(Choice(name="only-first"),))
    alone = update(PLAN, x[:, :1], y[:1])
    for name, tensor in update(only_first, x, y).items():
        np.testing.assert_allclose(tensor, alone[name], rtol=1e-6, atol=1e-7)


def test_local_steps_with_example_gradients_are_refused(defended: RoundPlan) -> None:
    plan = replace(
        defended,
        defences=(Choice(name="only-first"),),
        training=Training(update="delta", batch_size=5),
    )
    with pytest.raises(ConfigError, match=r"training\.update"):
        update(plan, *batch())


def test_a_reproducible_plan_takes_one_thread_and_deterministic_operators() -> None:
    before = torch.get_num_threads()
    weights = initial_weights(SPEC, 1)
    try:
        TorchBackend(threads=2).load(replace(PLAN, reproducible=False), weights)
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
        TorchBackend().load(PLAN, weights)
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(before)
        torch.set_deterministic_debug_mode("default")
