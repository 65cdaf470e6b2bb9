"""Centrally trained networks: the victims of studies, and how good they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedcore.data.datasets import Examples
from fedcore.data.encodings import encode
from fedcore.nn.arrays import to_arrays, to_tensor, to_tensors
from fedcore.nn.functional import draws, loss, predict
from fedcore.nn.models import build, initial_weights
from fedcore.plan import EncodingSpec, ModelSpec
from fedcore.seeds import stream
from fedcore.types import TensorMap

__all__ = ["accuracy", "train"]

_BATCH = 64
_LEARNING_RATE = 1e-3
_EVALUATED_TOGETHER = 500


def train(
    model: ModelSpec,
    encoding: EncodingSpec,
    examples: Examples,
    *,
    n_seen: Sequence[int],
    seed: int,
) -> Iterator[TensorMap]:
    """Weights as training reaches them: Adam, batches of 64, epochs in random order.

    Args:
        model: to train.
        encoding: of its inputs; every epoch draws anew.
        examples: that it learns.
        n_seen: examples that went by, at least, in ascending order; 0 gives the initial weights.
        seed: of weights, order and draws.
    """
    network, params = build(model), to_tensors(initial_weights(model, seed))
    for tensor in params.values():
        tensor.requires_grad_()
    adam = torch.optim.Adam(params.values(), lr=_LEARNING_RATE)
    batches, n_before = _batches(encoding, examples, seed=seed), 0
    for n_wanted in n_seen:
        while n_before < n_wanted:
            inputs, labels = next(batches)
            adam.zero_grad()
            drawn = draws(network, inputs, stream(seed, "draws", n_before))
            loss(network, params, inputs, labels, drawn).backward()  # type: ignore[no-untyped-call]
            adam.step()
            n_before += len(labels)
        yield to_arrays(params)


def accuracy(
    model: ModelSpec, encoding: EncodingSpec, weights: TensorMap, examples: Examples
) -> float:
    """Share of examples whose class the network names."""
    network, params = build(model), to_tensors(weights)
    n_right = 0
    n_parts = -(-len(examples) // _EVALUATED_TOGETHER)
    for index in np.array_split(np.arange(len(examples)), n_parts):
        inputs = encode(encoding, examples.inputs[index], stream(1, "accuracy", int(index[0])))
        said = predict(network, params, to_tensor(inputs))
        n_right += int((said == to_tensor(examples.labels[index])).sum())
    return n_right / len(examples)


def _batches(
    encoding: EncodingSpec, examples: Examples, *, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        order = stream(seed, "order", epoch).permutation(len(examples))
        for start in range(0, len(order), _BATCH):
            index = order[start : start + _BATCH]
            draw = stream(seed, "encode", epoch, start)
            yield (
                to_tensor(encode(encoding, examples.inputs[index], draw)),
                to_tensor(examples.labels[index]),
            )
        epoch += 1
