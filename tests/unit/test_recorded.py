"""Played-back searches: the same numbers as the plain ones, on any network and any update."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attacker import recorded  # noqa: E402
from attacker.batch import Batch, Victim  # noqa: E402
from attacker.inputs import input_view  # noqa: E402
from attacker.local_steps import LocalSteps  # noqa: E402
from attacker.objectives import cosine_distance  # noqa: E402
from attacker.recorded import Recorded  # noqa: E402
from fedcore.errors import AttackError  # noqa: E402
from fedcore.nn.functional import gradient  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.plan import EncodingSpec, ModelSpec, NeuronSpec  # noqa: E402
from fedcore.seeds import stream  # noqa: E402
from fedcore.types import Ticket  # noqa: E402

pytestmark = pytest.mark.torch

NETWORKS = {
    "sigmoid": ModelSpec(activation="sigmoid"),
    "relu": ModelSpec(name="convnet", activation="relu"),
    "spikes": ModelSpec(spiking=True, init_gain=3.0, neuron=NeuronSpec()),
    "mlp": ModelSpec(name="mlp", activation="tanh"),
}
ONE_STEP = partial(gradient, create_graph=True)
TWO_STEPS = LocalSteps(
    n_steps=2, batch_size=1, same_batch=True, learning_rate=0.1, proximal_mu=0.0
).update


def batch_of(model: ModelSpec, seeds: list[int], *, update=ONE_STEP) -> Batch:
    """Two restarts of victims whose weights have these seeds, and whose gradients are noise."""
    n_steps = 3 if model.spiking else 1
    view = input_view(EncodingSpec(n_steps=n_steps), input_shape=model.input_shape, batch_size=1)
    weights = [initial_weights(model, seed=seed) for seed in seeds]
    victims = [
        Victim(
            ticket=Ticket(run_id="run", round=0, client_id=f"client-{i}"),
            weights=own,
            gradient={
                name: stream(i, name).normal(size=w.shape).astype(np.float32)
                for name, w in own.items()
            },
            scale=1.0,
            labels=(np.array([i]),),
        )
        for i, own in enumerate(weights)
    ]
    return Batch(
        victims,
        network=build(model),
        view=view,
        n_examples=1,
        restarts=2,
        objective=lambda found, target, _: cosine_distance(found, target),
        update=update,
    )


@pytest.mark.parametrize("update", [ONE_STEP, TWO_STEPS], ids=["one step", "two steps"])
@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_a_recording_computes_what_it_recorded(model: ModelSpec, update, monkeypatch) -> None:
    monkeypatch.setattr(recorded, "PLAIN_CALLS", 1)
    batch = batch_of(model, [1, 2], update=update)
    first, second = (batch.starts("uniform", seed=seed) for seed in (1, 2))
    plain = batch.evaluate(first)
    batch.evaluate(second)  # recorded here, and from here on played back
    for one, other in zip(plain, batch.evaluate(first), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_a_victim_is_the_same_whatever_weights_the_others_have(model: ModelSpec) -> None:
    among_equals, among_others = batch_of(model, [1, 1]), batch_of(model, [1, 2])
    rows = among_equals.starts("uniform", seed=3)
    for one, other in zip(among_equals.evaluate(rows), among_others.evaluate(rows), strict=True):
        torch.testing.assert_close(one[:2], other[:2], rtol=1e-4, atol=1e-6)
        assert not torch.equal(one[2:], other[2:])


def test_another_shape_is_not_played_back(monkeypatch) -> None:
    monkeypatch.setattr(recorded, "PLAIN_CALLS", 0)
    double = Recorded(lambda x: 2 * x)
    for shape in ((2, 3), (4, 3), (2, 3)):
        x = torch.rand(shape)
        torch.testing.assert_close(double(x), 2 * x)


def test_a_compiled_recording_is_played_from_the_first_call(monkeypatch) -> None:
    class Compiled:
        """Like torch's own, neither true nor false."""

        def __init__(self, recording) -> None:
            self.recording = recording

        def __call__(self, x):
            return self.recording(x) + 1  # to tell it from the function

        def __bool__(self) -> bool:
            raise TypeError

    monkeypatch.setattr(torch, "compile", Compiled)
    double = Recorded(lambda x: 2 * x, compiles=True)
    assert double(torch.ones(2)).tolist() == [3.0, 3.0]


def test_a_search_is_recorded_once_that_pays() -> None:
    calls = []

    def counted(x):
        calls.append(x)
        return x + 1

    evaluate = Recorded(counted)
    for _ in range(recorded.PLAIN_CALLS + 20):
        evaluate(torch.zeros(3))
    assert len(calls) == recorded.PLAIN_CALLS + 1  # the last one to record it


def test_where_nothing_compiles_the_line_says_what_to_do(monkeypatch) -> None:
    def broken(recording):
        def call(x):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    double = Recorded(lambda x: 2 * x, compiles=True)
    with pytest.raises(AttackError, match=r"No working C\+\+ .* compiles = false"):
        double(torch.ones(2))
