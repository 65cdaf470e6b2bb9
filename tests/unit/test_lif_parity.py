"""Our LIF layer beside snnTorch's and SpikingJelly's: spikes and gradients, run side by side.

Each package has its own conventions; every mapping is written out here, and where the naive
reading of a parameter gives another neuron, that is asserted too.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from fedcore.nn.neurons.lif import Lif
from fedcore.nn.surrogates import SURROGATES, spike
from fedcore.plan import NeuronSpec

pytestmark = pytest.mark.torch

DECAY, K = 0.75, 5.0
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}


def some_currents(*, largest=1.2):
    draw = torch.Generator().manual_seed(11)
    return torch.rand(20, 3, 6, dtype=torch.float64, generator=draw) * largest - 0.1


def measure(run, currents):
    """Spikes of a layer and the gradient of their weighted sum in the currents."""
    currents = currents.clone().requires_grad_()
    spikes = run(currents)
    weights = torch.linspace(-1, 1, currents.numel(), dtype=currents.dtype).view_as(currents)
    (slope,) = torch.autograd.grad((spikes * weights).sum(), currents)
    return spikes.detach(), slope


def ours(**options):
    return Lif(NeuronSpec(decay=DECAY, sharpness=K, **options)).run


def assert_same(ours_run, theirs_run, currents, *, rtol=1e-9, atol=1e-12):
    (spikes, slope), (their_spikes, their_slope) = (
        measure(run, currents) for run in (ours_run, theirs_run)
    )
    assert 0.05 < float(spikes.mean()) < 0.95  # both silence and spikes are compared
    assert float(slope.abs().max()) > 0.01
    assert torch.equal(spikes, their_spikes.to(spikes.dtype))
    torch.testing.assert_close(slope, their_slope, rtol=rtol, atol=atol)


def differs(ours_run, theirs_run, currents):
    spikes, their_spikes = (measure(run, currents)[0] for run in (ours_run, theirs_run))
    return not torch.equal(spikes, their_spikes.to(spikes.dtype))


# --- snnTorch ----------------------------------------------------------------------------------


# Its spikes are float32 whatever the input is, and so are the gradients that pass them.


def snntorch_leaky(*, surrogate="fast_sigmoid", beta=DECAY, **options):
    snntorch = pytest.importorskip("snntorch")
    from snntorch import surrogate as their_surrogates

    curve = {
        "fast_sigmoid": their_surrogates.fast_sigmoid(slope=K),
        "arctan": their_surrogates.atan(alpha=K),
        "sigmoid": their_surrogates.sigmoid(slope=K),
        "triangular": their_surrogates.triangular(threshold=K),
    }[surrogate]

    def run(currents):
        layer = snntorch.Leaky(beta=beta, spike_grad=curve, **options).to(currents.dtype)
        membrane, train = layer.init_leaky(), []
        for current in currents:
            spikes, membrane = layer(current, membrane)
            train.append(spikes)
        return torch.stack(train)

    return run


@pytest.mark.parametrize("surrogate", ["fast_sigmoid", "arctan", "sigmoid"])
def test_snntorch_reset_to_zero_is_our_detached_reset(surrogate):
    theirs = snntorch_leaky(surrogate=surrogate, reset_mechanism="zero")
    assert_same(ours(reset="zero", surrogate=surrogate), theirs, some_currents(), **FLOAT32)


@pytest.mark.parametrize("surrogate", ["fast_sigmoid", "arctan", "sigmoid"])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_snntorch_without_reset_delay_is_our_reset_with_gradient(surrogate, reset):
    """As long as the membrane stays below two thresholds, see the next test."""
    theirs = snntorch_leaky(surrogate=surrogate, reset_mechanism=reset, reset_delay=False)
    mine = ours(reset=reset, surrogate=surrogate, detach_reset=False)
    assert_same(mine, theirs, some_currents(), **FLOAT32)


def test_snntorch_without_reset_delay_resets_a_strong_membrane_before_it_fires():
    theirs = snntorch_leaky(reset_mechanism="subtract", reset_delay=False)
    assert differs(ours(detach_reset=False), theirs, some_currents(largest=4.0))


def test_snntorch_default_subtraction_comes_after_the_leak():
    """v[t] = beta v[t-1] + I[t] - threshold s[t-1]: ours only where nothing leaks."""
    currents = some_currents(largest=0.8)
    assert differs(ours(), snntorch_leaky(reset_mechanism="subtract"), currents)
    no_leak = Lif(NeuronSpec(decay=1.0, sharpness=K)).run
    theirs = snntorch_leaky(beta=1.0, reset_mechanism="subtract")
    assert_same(no_leak, theirs, currents, **FLOAT32)


def test_snntorch_does_not_fire_at_the_threshold():
    exactly = torch.ones(1, 1, 1, dtype=torch.float64)
    assert ours()(exactly) == 1
    assert snntorch_leaky()(exactly) == 0


def test_snntorch_triangular_is_no_triangle():
    """Its derivative jumps from +k to -k at the threshold."""
    snntorch_leaky(surrogate="triangular")  # skips where snnTorch is absent
    from snntorch import surrogate as their_surrogates

    x = torch.tensor([-0.1, 0.1], dtype=torch.float64, requires_grad=True)
    (theirs,) = torch.autograd.grad(their_surrogates.triangular(threshold=K)(x).sum(), x)
    (triangle,) = torch.autograd.grad(spike(x, kind="triangle", sharpness=K).sum(), x)
    assert theirs.tolist() == [K, -K]
    assert triangle[0] == triangle[1]


# --- SpikingJelly ------------------------------------------------------------------------------

TAU = 1 / (1 - DECAY)
V_RESET = {"subtract": None, "zero": 0.0}


def jelly(node="LIFNode", *, surrogate, reset, **options):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import surrogate as curves

    curve = {
        "arctan": curves.ATan(alpha=K),
        "fast_sigmoid": curves.SoftSign(alpha=K),
        "rectangle": curves.Rect(alpha=K),
        "sigmoid": curves.Sigmoid(alpha=K),
        "triangle": curves.PiecewiseQuadratic(alpha=K),
    }[surrogate]
    tau = {"tau": TAU} if node == "LIFNode" else {"init_tau": TAU}

    def run(currents):
        layer = getattr(neuron, node)(
            **tau,
            v_reset=V_RESET[reset],
            surrogate_function=curve,
            step_mode="m",
            **options,
        )
        return layer.to(currents.dtype)(currents)

    return run


@pytest.mark.parametrize("surrogate", sorted(SURROGATES.keys() - {"fast_sigmoid", "exponential"}))
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("detach_reset", [True, False])
def test_spikingjelly_lif_without_decayed_input_is_ours(surrogate, reset, detach_reset):
    theirs = jelly(surrogate=surrogate, reset=reset, detach_reset=detach_reset, decay_input=False)
    mine = ours(surrogate=surrogate, reset=reset, detach_reset=detach_reset)
    assert_same(mine, theirs, some_currents())


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_spikingjelly_decays_the_input_too_by_default(reset):
    theirs = jelly(surrogate="arctan", reset=reset, detach_reset=True)
    mine = ours(surrogate="arctan", reset=reset)
    currents = some_currents(largest=4.0)
    assert_same(lambda currents: mine(currents / TAU), theirs, currents)
    assert differs(mine, theirs, currents)


@pytest.mark.parametrize("decay_input", [True, False])
def test_spikingjelly_parametric_lif_starts_as_the_same_neuron(decay_input):
    theirs = jelly(
        "ParametricLIFNode",
        surrogate="sigmoid",
        reset="subtract",
        detach_reset=True,
        decay_input=decay_input,
    )
    mine, scale = ours(surrogate="sigmoid"), TAU if decay_input else 1.0
    currents = some_currents(largest=1.2 * scale)
    # Its decay is the sigmoid of a float32 parameter.
    assert_same(lambda currents: mine(currents / scale), theirs, currents, **FLOAT32)


def test_spikingjelly_soft_sign_is_fast_sigmoid_times_half_its_sharpness():
    """So the slopes through one spike differ by that factor, and the spikes do not."""
    options = {"reset": "subtract", "detach_reset": True}
    theirs = jelly(surrogate="fast_sigmoid", decay_input=False, **options)
    one_step = some_currents()[:1] + 0.5
    spikes, slope = measure(ours(surrogate="fast_sigmoid", **options), one_step)
    their_spikes, their_slope = measure(theirs, one_step)
    assert torch.equal(spikes, their_spikes)
    torch.testing.assert_close(K / 2 * slope, their_slope)


def test_spikingjelly_fires_at_the_threshold_as_we_do():
    exactly = torch.ones(1, 1, 1, dtype=torch.float64)
    theirs = jelly(surrogate="arctan", reset="subtract", decay_input=False)
    assert ours()(exactly) == theirs(exactly) == 1
