"""A network of one hidden layer that says what share of a batch each class has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedcore.nn.arrays import to_array, to_tensor
from fedcore.seeds import stream

__all__ = ["LearnedCounts"]

_WIDTH = 64
_EPOCHS = 12
_BATCH = 64
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2
_LINEAR_BELOW = 1e-5  # residuals far larger count by their logarithm


@dataclass(frozen=True, kw_only=True)
class LearnedCounts:
    """Trained on clients whose counts are known, by cross-entropy with their shares.

    Attributes:
        middle: of the evidence as the network takes it, [evidence].
        spread: its standard deviation, [evidence].
        weights: both layers' weights and biases.
    """

    middle: np.ndarray
    spread: np.ndarray
    weights: tuple[Tensor, ...]

    @classmethod
    def from_clients(cls, evidence: np.ndarray, counts: np.ndarray) -> LearnedCounts:
        """Train; the same clients give the same network.

        Args:
            evidence: what is seen of each client, mean residuals in the main, [client, evidence].
            counts: examples of each class, [client, class].
        """
        compressed = _compressed(evidence)
        middle, spread = compressed.mean(axis=0), compressed.std(axis=0) + 1e-6
        inputs = _tensor((compressed - middle) / spread)
        shares = _tensor(counts / counts.sum(axis=1, keepdims=True))
        rng = stream(0, "learned-counts")
        weights = _start(inputs.shape[1], shares.shape[1], rng)
        adam = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        for epoch in range(_EPOCHS):
            adam.param_groups[0]["lr"] = _LEARNING_RATE * (1 - epoch / _EPOCHS)
            order = to_tensor(rng.permutation(len(inputs)))
            for batch in torch.split(order, _BATCH):
                adam.zero_grad()
                loss = F.cross_entropy(_said(weights, inputs[batch]), shares[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
        trained = tuple(tensor.detach() for tensor in weights)
        return cls(middle=middle, spread=spread, weights=trained)

    def counts(self, evidence: np.ndarray, *, n_examples: int) -> np.ndarray:
        """Expected counts of clients, float64 [client, class]."""
        inputs = _tensor((_compressed(evidence) - self.middle) / self.spread)
        shares = to_array(_said(self.weights, inputs).softmax(1)).astype(np.float64)
        return n_examples * shares


def _compressed(evidence: np.ndarray) -> np.ndarray:
    return np.arcsinh(evidence / _LINEAR_BELOW)


def _tensor(values: np.ndarray) -> Tensor:
    return to_tensor(values.astype(np.float32))


def _start(n_inputs: int, n_classes: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """Uniform within +-1 / sqrt(inputs of the layer), as torch starts linear layers."""
    tensors = []
    for n_in, n_out in ((n_inputs, _WIDTH), (_WIDTH, n_classes)):
        bound = n_in**-0.5
        tensors += [_tensor(rng.uniform(-bound, bound, size)) for size in ((n_out, n_in), (n_out,))]
    return tuple(tensor.requires_grad_() for tensor in tensors)


def _said(weights: tuple[Tensor, ...], inputs: Tensor) -> Tensor:
    hidden = F.relu(F.linear(inputs, weights[0], weights[1]))
    return F.linear(hidden, weights[2], weights[3])
