"""The twin beside SLAYER, in one process: `make test-lava`."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lava.lib.dl")
import torch

from fedcore.nn.neurons.slayer_cuba import SlayerCuba
from fedcore.plan import NeuronSpec

pytestmark = [pytest.mark.lava, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]


def test_slayer_makes_the_golden_files_again():
    tool = ROOT / "tools" / "make_lava_golden.py"
    done = subprocess.run(
        [sys.executable, tool, "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("spikes per layer") == len(list(ROOT.glob("tests/golden/lava/*.npz")))


@given(
    constants=st.fixed_dictionaries(
        {
            "threshold": st.floats(1 / 64, 63.9),
            "current_decay": st.floats(0, 1),
            "voltage_decay": st.floats(0, 0.999),
            "tau_grad": st.floats(0.01, 2),
            "scale_grad": st.floats(0.1, 10),
        }
    ),
    loudness=st.floats(0.1, 4),
    seed=st.integers(0, 999),
)
def test_a_layer_has_slayers_spikes_and_gradients_whatever_its_constants(constants, loudness, seed):
    from lava.lib.dl.slayer.neuron import cuba

    draw = torch.Generator().manual_seed(seed)
    currents = loudness * constants["threshold"] * torch.randn(20, 3, 8, generator=draw)
    weights = torch.randn(20, 3, 8, generator=draw)
    threshold = int(64 * constants["threshold"]) / 64
    spec = NeuronSpec(
        name="slayer-cuba",
        decay=1 - constants["voltage_decay"],
        threshold=constants["threshold"],
        reset="zero",
        surrogate="exponential",
        sharpness=1 / (100 * constants["tau_grad"] * threshold),
        options={
            "current_decay": constants["current_decay"],
            "scale_grad": constants["scale_grad"],
            "delay_shift": False,
        },
    )

    def answer(run):
        x = currents.clone().requires_grad_()
        spikes = run(x)
        return spikes.detach(), *torch.autograd.grad((spikes * weights).sum(), x)

    theirs = cuba.Neuron(**constants)
    spikes, slope = answer(SlayerCuba(spec).run)
    their_spikes, their_slope = answer(lambda x: theirs(x.movedim(0, -1)).movedim(-1, 0))
    assert torch.equal(spikes, their_spikes)
    scale = float(their_slope.abs().max())
    torch.testing.assert_close(slope, their_slope, rtol=1e-4, atol=1e-5 * scale)
