"""What only the torch backend promises: defences on the model and on example gradients."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_client.backends.torch_backend import TorchBackend  # noqa: E402
from fedcore.defences.base import DEFENCES, Defence  # noqa: E402
from fedcore.energy import DIVERGED  # noqa: E402
from fedcore.errors import ConfigError  # noqa: E402
from fedcore.nn.models import initial_weights  # noqa: E402
from fedcore.plan import Choice, EncodingSpec, ModelSpec, RoundPlan, Training  # noqa: E402
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
class Tanh(Defence):
    """Trains a smoother network than the plan's."""

    def model(self, spec: ModelSpec) -> ModelSpec:
        return replace(spec, activation="tanh")


@dataclass(frozen=True, kw_only=True)
class OnlyFirst(Defence):
    """Forgets every example but the first."""

    def example_gradients(self, gradients: TensorMap) -> TensorMap:
        return {name: np.repeat(t[:1], len(t), axis=0) for name, t in gradients.items()}


@pytest.fixture
def defended(monkeypatch: pytest.MonkeyPatch) -> RoundPlan:
    for name, defence in (("tanh", Tanh), ("only-first", OnlyFirst)):
        monkeypatch.setitem(DEFENCES._where, name, f"{__name__}:{defence.__name__}")
    return PLAN


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.random((1, 5, 1, 3, 3), dtype=np.float32), rng.integers(0, 3, 5)


def update(plan: RoundPlan, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    backend = TorchBackend()
    backend.load(plan, initial_weights(SPEC, 1))
    return backend.train([x], [y])


def test_a_defended_model_is_trained_and_the_plans_model_evaluated(defended: RoundPlan) -> None:
    x, y = batch()
    smooth = replace(PLAN, model=replace(SPEC, activation="tanh"))
    with_defence = replace(defended, defences=(Choice(name="tanh"),))
    for name, tensor in update(smooth, x, y).items():
        np.testing.assert_array_equal(update(with_defence, x, y)[name], tensor)
    backend = TorchBackend()
    losses = []
    for plan in (PLAN, with_defence):
        backend.load(plan, initial_weights(SPEC, 1))
        losses.append(backend.evaluate(x, y).mean_loss)
    assert losses[0] == losses[1]


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
