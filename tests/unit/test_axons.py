"""Axons deliver late, and learn how late. SLAYER's own answers are held in tests/golden."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from fedcore.nn.arrays import to_tensors  # noqa: E402
from fedcore.nn.functional import run  # noqa: E402
from fedcore.nn.models import build, initial_weights  # noqa: E402
from fedcore.nn.models.axons import Axons  # noqa: E402
from fedcore.nn.probes import count_layers  # noqa: E402
from fedcore.plan import ModelSpec, NeuronSpec  # noqa: E402

pytestmark = pytest.mark.torch

MODEL = ModelSpec(
    name="mlp",
    spiking=True,
    readout="spike_count",
    input_shape=(6,),
    neuron=NeuronSpec(
        name="slayer-cuba", reset="zero", surrogate="exponential", options={"delay": True}
    ),
    init_gain=8.0,
    options={"hidden": [5, 4]},
)


def deliver(spikes: torch.Tensor, delay: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(Axons(len(delay)), {"delay": delay}, (spikes,))


@pytest.mark.parametrize("size", [(), (3, 2)])
def test_a_channel_is_late_by_its_whole_steps(size: tuple[int, ...]) -> None:
    spikes = (torch.rand(7, 2, 5, *size, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    late = deliver(spikes, torch.tensor([0.9, 1.0, 3.7, -2.5, 100.0]))
    for channel, steps in enumerate((0, 1, 3, 0)):
        assert torch.equal(late[steps:, :, channel], spikes[: 7 - steps, :, channel])
        assert not late[:steps, :, channel].any()
    assert not late[:, :, 4].any()


def test_a_delay_of_62_steps_is_the_longest() -> None:
    late = deliver(torch.ones(64, 1, 1), torch.tensor([80.0]))
    assert late.flatten().tolist() == [0.0] * 62 + [1.0] * 2


def test_the_delay_learns_from_what_changes() -> None:
    spikes, delay = torch.tensor([1.0, 1.0, 0.0, 1.0]).reshape(4, 1, 1), torch.tensor([1.5])
    wished = torch.tensor([5.0, 7.0, 11.0, 13.0]).reshape(4, 1, 1)
    slope = torch.func.grad(lambda d: (wished * deliver(spikes, d)).sum())(delay)
    # What arrives is 0 1 1 0, and one step earlier it was 0 0 1 1.
    assert slope.tolist() == [-7.0 + 13.0]


def test_hidden_layers_of_the_spiking_twin_have_axons() -> None:
    learned = [name for name, _ in build(MODEL).named_parameters()]
    assert [name for name in learned if name.endswith(".delay")] == [
        "hidden1_axons.delay",
        "hidden2_axons.delay",
    ]
    conventional = [name for name, _ in build(replace(MODEL, spiking=False)).named_parameters()]
    assert conventional == [name for name in learned if not name.endswith(".delay")]


def test_first_delays_are_no_whole_step_yet() -> None:
    drawn = initial_weights(MODEL, 3)["hidden1_axons.delay"]
    assert drawn.min() >= 0
    assert 0 < drawn.max() < 1


def test_spikes_that_arrive_in_time_are_counted() -> None:
    params = to_tensors(initial_weights(MODEL, 3))
    params["hidden1_axons.delay"] = torch.full((5,), 3.0)
    inputs = torch.ones(8, 2, 6)
    (first, *_) = count_layers(build(MODEL), params, inputs)
    arrived = run(build(MODEL), params, inputs).received["hidden2"]
    assert first.spikes == arrived.sum() / 2 > 0
