"""The network of `benchmarks.edge` in snnTorch and in SpikingJelly, as their own pages build it."""

from __future__ import annotations

from collections.abc import Mapping

import snntorch
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

__all__ = ["SnnTorch", "SpikingJelly", "gradient_by"]


class SnnTorch(nn.Module):
    """snnTorch's `Leaky`, step by step.

    Args:
        weights: as our convnet names them.
        decay: of the membranes.
        slope: of the surrogate fast_sigmoid.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, decay: float, slope: float) -> None:
        super().__init__()
        surrogate_slope = snntorch.surrogate.fast_sigmoid(slope=slope)
        self.conv1, self.conv2 = (_loaded(nn.Conv2d, weights, f"conv{i}") for i in (1, 2))
        self.readout = _loaded(nn.Linear, weights, "readout")
        self.neurons1, self.neurons2 = (
            snntorch.Leaky(beta=decay, spike_grad=surrogate_slope) for _ in range(2)
        )
        self.integrator = snntorch.Leaky(beta=decay, reset_mechanism="none")

    def forward(self, inputs: Tensor) -> Tensor:
        """Mean membrane, [batch, class], of [time, batch, channel, height, width]."""
        first = self.neurons1.init_leaky()
        second = self.neurons2.init_leaky()
        membrane = self.integrator.init_leaky()
        trace = []
        for frame in inputs:
            spikes, first = self.neurons1(self.conv1(frame), first)
            spikes, second = self.neurons2(self.conv2(spikes), second)
            _, membrane = self.integrator(self.readout(spikes.flatten(1)), membrane)
            trace.append(membrane)
        return torch.stack(trace).mean(0)


class SpikingJelly(nn.Module):
    """SpikingJelly's `LIFNode`, layer by layer (step mode "m"), with its ATan.

    Args:
        weights: as our convnet names them.
        decay: of the membranes.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, decay: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _loaded(layer.Conv2d, weights, "conv1", step_mode="m"),
            _lif(decay),
            _loaded(layer.Conv2d, weights, "conv2", step_mode="m"),
            _lif(decay),
            layer.Flatten(step_mode="m"),
            _loaded(layer.Linear, weights, "readout", step_mode="m"),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Mean output, [batch, class], of [time, batch, channel, height, width]."""
        functional.reset_net(self)
        outputs: Tensor = self.layers(inputs)
        return outputs.mean(0)


def gradient_by(network: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """The gradient of the mean cross-entropy in every parameter."""
    loss = F.cross_entropy(network(inputs), labels)
    return torch.autograd.grad(loss, list(network.parameters()))


def _lif(decay: float) -> nn.Module:
    node: nn.Module = neuron.LIFNode(
        tau=1 / (1 - decay),
        decay_input=False,
        v_reset=None,
        detach_reset=True,
        surrogate_function=surrogate.ATan(),
        step_mode="m",
    )
    return node


def _loaded(
    kind: type[nn.Module], weights: Mapping[str, Tensor], name: str, **options: str
) -> nn.Module:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    n_out, n_in, *kernel = weight.shape
    if kernel:
        made = kind(n_in, n_out, kernel[0], stride=2, padding=kernel[0] // 2, **options)
    else:
        made = kind(n_in, n_out, **options)
    made.load_state_dict({"weight": weight, "bias": bias})
    return made
