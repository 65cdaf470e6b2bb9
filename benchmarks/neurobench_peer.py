"""NeuroBench's counts of a network with one hidden layer of LIF neurons; needs neurobench alone.

    python -m benchmarks.neurobench_peer CASES.npz

CASES holds weights as our mlp names them, `inputs` [time, batch, feature] and `beta`. Ends with a
line of JSON: NeuroBench's results on snnTorch's neurons, and on the same neurons in plain torch
that nobody registered. What it prints besides goes to the standard error.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import numpy as np
import snntorch
import torch
from neurobench.benchmarks import Benchmark
from neurobench.metrics.workload import ActivationSparsity, MembraneUpdates, SynapticOperations
from neurobench.models import SNNTorchModel, TorchModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Spiking(nn.Module):
    """Linear, LIF, linear over [batch, time, feature]."""

    def __init__(self, cases: Any, neurons: nn.Module) -> None:
        super().__init__()
        self.hidden = _linear(cases, "hidden1")
        self.neurons = neurons
        self.readout = _linear(cases, "readout")

    def forward(self, x: Tensor) -> Tensor:
        """Logits at every step, [batch, time, class]."""
        membrane: Any = torch.zeros(len(x), self.hidden.out_features)
        steps = []
        for t in range(x.shape[1]):
            spikes, membrane = self.neurons(self.hidden(x[:, t]), membrane)
            steps.append(self.readout(spikes))
        return torch.stack(steps, dim=1)


class PlainLif(nn.Module):
    """The same neuron, which NeuroBench does not know."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, current: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes, and the membrane before its next reset."""
        membrane = self.beta * membrane * (membrane <= 1) + current
        return (membrane > 1).float(), membrane


def main() -> None:
    """Count, and print the line."""
    cases = np.load(sys.argv[1])
    inputs = torch.from_numpy(cases["inputs"]).movedim(0, 1)
    data = DataLoader(TensorDataset(inputs, torch.zeros(len(inputs))), batch_size=len(inputs))
    beta = float(cases["beta"])
    with contextlib.redirect_stdout(sys.stderr):
        known = _counts(
            SNNTorchModel(
                Spiking(cases, snntorch.Leaky(beta=beta, reset_mechanism="zero")),
                custom_forward=True,
            ),
            data,
        )
        plain = _counts(TorchModel(Spiking(cases, PlainLif(beta))), data)
    print(json.dumps({"snntorch": known, "plain": plain}))


def _linear(cases: Any, name: str) -> nn.Linear:
    weight, bias = (torch.from_numpy(cases[f"{name}.{of}"]) for of in ("weight", "bias"))
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _counts(model: Any, data: Any) -> Any:
    metrics = [ActivationSparsity, SynapticOperations, MembraneUpdates]
    benchmark = Benchmark(model, data, [], [lambda logits: logits.sum(1).argmax(1)], [[], metrics])
    return benchmark.run(quiet=True)


if __name__ == "__main__":
    main()
