"""What Lava clients refuse, where a run is planned: without lava."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from edge_client.backends.lava.limits import input_refusal, refusal
from fedcore.config import load_experiment
from fedcore.errors import ConfigError
from fedcore.plan import EncodingSpec, NeuronSpec
from testbed.devices import check_devices
from testbed.experiment import check

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
    late = replace(model.neuron, options={**model.neuron.options, "delay": True})
    assert refusal(replace(model, neuron=late)) is None
    for other, named in (
        (replace(model, spiking=False), "no spiking neurons"),
        (replace(model, neuron=NeuronSpec()), "'lif'"),
        (replace(model, readout="per_step"), "readout 'spike_count'"),
        (replace(model, neuron=replace(model.neuron, surrogate="arctan")), "'exponential' only"),
        (replace(model, neuron=replace(model.neuron, options=free)), "quantise_weights"),
        (replace(model, name="convnet", options={}, neuron=late), "convolutions with delays"),
    ):
        assert named in (refusal(other) or "")


def test_a_chip_receives_spikes_alone() -> None:
    experiment = load_experiment(MIXED)
    chip, usual = experiment.arms
    arms = (replace(chip, encoding=EncodingSpec(name="direct", n_steps=16)), usual)
    with pytest.raises(ConfigError) as refused:
        check(replace(experiment, arms=arms), where="mixed.toml")
    assert str(refused.value) == (
        f"mixed.toml: arm {chip.name!r}: devices: device 'loihi' (backend 'lava') cannot take "
        "part: encoding 'direct' sends values other than 0 and 1, and a chip's inputs are spikes; "
        "take 'rate', 'latency', 'events' with binary, or 'delta' without off_spikes; change the "
        "arm, or leave its clients out of the arm's key clients"
    )


@pytest.mark.parametrize(
    ("name", "options", "is_refused"),
    [
        ("latency", {}, False),
        ("delta", {"off_spikes": False}, False),
        ("delta", {}, True),
        ("events", {}, False),
        ("events", {"binary": False}, True),
    ],
)
def test_options_of_an_encoding_count(name: str, options: dict, is_refused: bool) -> None:
    said = input_refusal(EncodingSpec(name=name, options=options))
    assert bool(said) == is_refused
    assert not said or not options or f"with options {options}" in said
