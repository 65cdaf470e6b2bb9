"""What Lava clients refuse, where a run is planned: without lava."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from edge_client.backends.lava.limits import refusal
from fedcore.config import load_experiment
from fedcore.errors import ConfigError
from fedcore.plan import NeuronSpec
from testbed.devices import check_devices

pytestmark = pytest.mark.torch

MIXED = Path(__file__).parents[2] / "experiments" / "mixed.toml"


def test_an_arm_that_lava_clients_cannot_train_names_them() -> None:
    experiment = load_experiment(MIXED)
    experiment = replace(experiment, devices=experiment.devices[-1:])
    chip, usual = experiment.arms
    check_devices(experiment, chip)
    with pytest.raises(ConfigError, match=r"device 'loihi' \(backend 'lava'\).* 'lif'"):
        check_devices(experiment, replace(usual, clients=()))


def test_what_a_chip_does_not_have_is_refused_by_name() -> None:
    model = load_experiment(MIXED).arms[0].model
    free = {**model.neuron.options, "quantise_weights": False}
    for other, named in (
        (replace(model, spiking=False), "no spiking neurons"),
        (replace(model, neuron=NeuronSpec()), "'lif'"),
        (replace(model, readout="per_step"), "readout 'spike_count'"),
        (replace(model, neuron=replace(model.neuron, surrogate="arctan")), "'exponential' only"),
        (replace(model, neuron=replace(model.neuron, options=free)), "quantise_weights"),
    ):
        assert named in (refusal(other) or "")
