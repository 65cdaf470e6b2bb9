"""Inputs whose features are the ones that were read from the readout's gradient.

A row is one search for the input of one example. Its loss is a distance from what is known of the
features, plus total variation:

* their weighted means m, where nothing more is known: |m(candidate) - m|^2 / |m|^2;
* their spike trains s: how far the membranes v of the last hidden layer are on the wrong side of
  the threshold. With the resets that s demands, v depends on the currents I alone,
  v[t] = decay * u[t-1] + I[t], u[t] = reset of v[t] by s[t], and the loss is the sum over time and
  neurons of max(0, threshold - v) where s = 1 and max(0, v - threshold) where s = 0, divided by
  the threshold and the number of spikes. It is 0 at the truth, and it says of every neuron how far
  it is from its train, where a distance between spikes knows right and wrong only.

The network in front is run with its spikes, which a softer surrogate does not change, and is
differentiated with the softer surrogate that the attacker chose.

Where an example is alone in its update, the gradients of convolutions can be matched, too, once
there are candidates near it: see `attacker.peeling.convolutions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from attacker.inputs import InputView
from attacker.peeling.convolutions import FrozenConvolution, frozen_convolutions
from attacker.priors import total_variation
from fedcore.nn.arrays import to_tensor, to_tensors
from fedcore.nn.functional import Params, run
from fedcore.nn.models import READOUT
from fedcore.nn.models.network import Network, Spiking
from fedcore.plan import NeuronSpec
from fedcore.tensors import have_equal_values
from fedcore.types import TensorMap

__all__ = ["FeatureMatching", "Peeled", "can_match_trains"]

_CONVOLUTIONS = 1e-3  # weight of each one's distance beside the features'


@dataclass(frozen=True, kw_only=True)
class Peeled:
    """What is known of the features of one example.

    Attributes:
        weights: the global model, by name.
        means: weighted over time, [feature].
        trains: in {0, 1}, [time, feature], or None where only the means are known.
        gradient: of this example alone, by name; empty where it is not to be matched.
    """

    weights: TensorMap
    means: np.ndarray
    trains: np.ndarray | None
    gradient: TensorMap = field(default_factory=dict)


def can_match_trains(network: Network) -> bool:
    """Whether the readout's inputs are spikes of neurons whose membranes are known here."""
    is_known = network.spec.spiking and network.spec.neuron.name == "lif"
    return is_known and any(isinstance(layer, Spiking) for layer in network.children())


class FeatureMatching:
    """Losses and gradients of many searches in one call.

    Args:
        examples: all with trains or all without; and all with a gradient or all without.
        network: of all of them, with the attacker's surrogate.
        view: what a candidate for one example is.
        restarts: rows per example.
        total_variation: weight of the prior.
        n_spatial: trailing axes of a candidate that are space.
        step_weights: how much each step counts in the logits, [time].
    """

    def __init__(
        self,
        examples: Sequence[Peeled],
        *,
        network: Network,
        view: InputView,
        restarts: int,
        total_variation: float,
        n_spatial: int,
        step_weights: Tensor,
    ) -> None:
        self._view = view
        self.prior_weight = total_variation
        self._n_spatial = n_spatial
        self._neuron = network.spec.neuron
        self._step_weights = step_weights / step_weights.sum()
        trains = [e.trains for e in examples if e.trains is not None]
        self._trains = _rows(trains, restarts=restarts) if trains else None
        self._means = _rows([e.means for e in examples], restarts=restarts)
        self._network = network if self._trains is None else _without_last_neurons(network)
        self.is_spiking = network.spec.spiking
        self._groups = _equal_weights(examples, restarts=restarts)
        self._observed = {
            name: _rows([e.gradient[name] for e in examples], restarts=restarts)
            for name in examples[0].gradient
        }
        self._frozen: list[dict[str, FrozenConvolution]] = [{} for _ in self._groups]

    def with_prior(self, weight: float) -> FeatureMatching:
        """The same searches under another weight of the prior."""
        other = copy(self)
        other.prior_weight = weight
        return other

    @property
    def has_gradients(self) -> bool:
        """Whether there are gradients to match beside the features."""
        return bool(self._observed)

    def with_convolutions_at(self, rows: Tensor) -> FeatureMatching:
        """The same searches with the gradients of convolutions, at the slopes that these have."""
        other = copy(self)
        inputs = self._inputs(rows.reshape(-1, *self._view.shape))
        other._frozen = [
            frozen_convolutions(
                self._network,
                params,
                inputs[:, index],
                observed={name: of_all[index] for name, of_all in self._observed.items()},
            )
            for index, params in self._groups
        ]
        return other

    def evaluate(self, rows: Tensor, offset: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Losses [row] and their gradients [row, variable] at these candidates.

        Args:
            rows: candidates.
            offset: added to them before the network sees them, but not in the prior.
        """
        leaves = rows.detach().requires_grad_()
        losses = self._losses(leaves, offset)
        (slopes,) = torch.autograd.grad(losses.sum(), leaves)
        return losses.detach(), slopes

    def losses(self, rows: Tensor) -> Tensor:
        """Losses alone, [row]."""
        with torch.no_grad():
            return self._losses(rows, 0.0)

    def _losses(self, rows: Tensor, offset: Tensor | float) -> Tensor:
        candidates = rows.reshape(-1, *self._view.shape)
        prior = torch.func.vmap(partial(total_variation, n_spatial=self._n_spatial))(candidates)
        inputs = self._inputs((rows + offset).reshape(candidates.shape))
        distances = torch.zeros_like(prior)
        for (index, params), frozen in zip(self._groups, self._frozen, strict=True):
            received = run(self._network, params, inputs[:, index]).received
            distance = self._distance(received[READOUT].flatten(2), index)
            for name, convolution in frozen.items():
                distance = distance + _CONVOLUTIONS * convolution.distance(received[name])
            distances = distances.index_put((index,), distance)
        return distances + self.prior_weight * prior

    def _inputs(self, shown: Tensor) -> Tensor:
        """What the network receives from these candidates, [time, row, feature...]."""
        # from [row, time, 1, feature...]
        return torch.func.vmap(self._view.to_network)(shown).squeeze(2).movedim(0, 1)

    def _distance(self, found: Tensor, index: Tensor) -> Tensor:
        """Of these rows, [row]; `found` is [time, row, feature]."""
        if self._trains is not None:
            trains = self._trains[index].movedim(1, 0)
            return _wrong_side(found, trains, self._neuron)
        means = self._means[index]
        return _relative_distance(torch.tensordot(self._step_weights, found, dims=1), means)


def _relative_distance(found: Tensor, target: Tensor) -> Tensor:
    """|found - target|^2 / |target|^2 of each row."""
    return (found - target).square().sum(1) / target.square().sum(1).clamp(min=1e-12)


def _wrong_side(currents: Tensor, trains: Tensor, neuron: NeuronSpec) -> Tensor:
    """See the module: how far membranes are from where their trains put them, [row].

    Args:
        currents: [time, row, feature].
        trains: in {0, 1}, in the same shape.
        neuron: a leaky integrate-and-fire neuron's constants.
    """
    u = torch.zeros_like(currents[0])
    distance = currents.new_zeros(currents.shape[1])
    for current, spikes in zip(currents, trains, strict=True):
        v = neuron.decay * u + current
        excess = v / neuron.threshold - 1
        distance = distance + ((1 - 2 * spikes) * excess).clamp(min=0).sum(1)
        u = v - neuron.threshold * spikes if neuron.reset == "subtract" else v * (1 - spikes)
    return distance / trains.sum((0, 2)).clamp(min=1)


def _without_last_neurons(network: Network) -> Network:
    """The network whose features are the currents into the neurons behind them."""
    layers = dict(network.named_children())
    *_, last = (n for n, layer in layers.items() if isinstance(layer, Spiking))
    return Network(network.spec, {n: layer for n, layer in layers.items() if n != last})


def _rows(arrays: Sequence[np.ndarray], *, restarts: int) -> Tensor:
    """One per row, [row, ...]."""
    return to_tensor(np.stack(arrays)).repeat_interleave(restarts, dim=0)


def _equal_weights(examples: Sequence[Peeled], *, restarts: int) -> list[tuple[Tensor, Params]]:
    """Rows that share a global model, and its weights."""
    members: dict[int, list[int]] = {}
    distinct: list[TensorMap] = []
    for i, example in enumerate(examples):
        for k, weights in enumerate(distinct):
            if have_equal_values(weights, example.weights):
                members[k].append(i)
                break
        else:
            members[len(distinct)] = [i]
            distinct.append(example.weights)
    groups: list[tuple[Tensor, Params]] = []
    for k, weights in enumerate(distinct):
        first = torch.tensor(members[k])[:, None] * restarts
        groups.append(((first + torch.arange(restarts)).flatten(), to_tensors(weights)))
    return groups
