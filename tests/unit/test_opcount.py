"""Counting in numpy: the same as the hooks of torch; of integer weights, those that are not 0."""

import numpy as np
import pytest

from fedcore.errors import ConfigError
from hardware.opcount import LayerTable, count_layer


def test_a_dense_layer_by_hand() -> None:
    """Two spikes at input 0 and one at input 1, over two steps and one example."""
    arrived = np.array([[[1, 1, 0]], [[1, 0, 0]]], dtype=np.float32)
    weight = np.array([[2, 0, 4], [6, 8, -2]], dtype=np.int8)
    count = count_layer(LayerTable(name="hidden", kind="dense", weight=weight), arrived, spikes=1.5)
    assert count.acs == 2 * 2 + 1 * 1  # the weight that is 0 costs nothing
    assert (count.macs, count.dense, count.neurons, count.updates) == (0, 2 * 6, 2, 4)
    assert count.spikes == 1.5


def test_a_recurrent_layer_is_two_tables_of_synapses() -> None:
    """It hears the input now, and its own spikes of the step before."""
    arrived = np.array([[[1, 0]], [[1, 1]]], dtype=np.float32)
    own_before = np.array([[[0, 0, 0]], [[1, 0, 1]]], dtype=np.float32)
    forward = LayerTable(name="forward", kind="dense", weight=np.ones((3, 2)))
    back = LayerTable(name="back", kind="dense", weight=np.array([[0, 1, 1]] * 3))
    assert count_layer(forward, arrived).acs == 3 * 3
    assert count_layer(back, own_before).acs == 3  # the first neuron reaches nobody


def test_graded_input_multiplies_whatever_its_value() -> None:
    arrived = np.array([[[0.5, 0.0]]])
    count = count_layer(LayerTable(name="h", kind="dense", weight=np.ones((3, 2))), arrived)
    assert (count.acs, count.macs) == (0, 6)


@pytest.mark.torch
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 2), (1, 2)])
@pytest.mark.parametrize("spiking", [False, True])
def test_it_agrees_with_torch(stride: int, padding: int, spiking: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrived = rng.random((3, 4, 2, 7, 6)).astype(np.float32)
    arrived = (arrived < 0.3).astype(np.float32) if spiking else arrived
    weight = rng.normal(size=(5, 2, 3, 3)).astype(np.float32)
    table = LayerTable(name="conv", kind="conv", weight=weight, stride=stride, padding=padding)
    count = count_layer(table, arrived)
    present = torch.from_numpy(arrived if spiking else np.ones_like(arrived)).flatten(0, 1)
    reached = torch.nn.functional.conv2d(
        present, torch.ones(5, 2, 3, 3), stride=stride, padding=padding
    )
    assert count.acs + count.macs == pytest.approx(float(reached.sum()) / 4)
    assert count.neurons == reached[0].numel()
    assert (count.macs == 0) == spiking


def test_what_is_not_understood_is_refused_by_name() -> None:
    with pytest.raises(
        ConfigError, match=r"layer 'h': a conv weight has 4 axes; got shape \(2, 2\)"
    ):
        LayerTable(name="h", kind="conv", weight=np.ones((2, 2)))
    with pytest.raises(ConfigError, match="kind 'pool' is not understood"):
        LayerTable(name="h", kind="pool", weight=np.ones((2, 2)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="3 inputs arrived, its weight has 2"):
        count_layer(LayerTable(name="h", kind="dense", weight=np.ones((2, 2))), np.ones((1, 1, 3)))
