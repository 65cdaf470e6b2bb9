"""How strongly what a layer receives answers to the network's input."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedcore.errors import ConfigError
from fedcore.nn.functional import Params, features
from fedcore.nn.models.network import Network

__all__ = ["BatchView"]

_FEATURES_AT_ONCE = 64  # bounds the memory: each has an input's worth of slopes


class BatchView:
    """A `fedcore.defences.base.OwnBatch`.

    Args:
        network: of the round.
        params: its global weights.
        inputs: encoded, of all local steps, [time, example, feature...].
    """

    def __init__(self, network: Network, params: Params, inputs: Tensor) -> None:
        self._network = network
        self._params = params
        self._inputs = inputs

    def sensitivity(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """See `OwnBatch.sensitivity`. Spikes answer through their surrogate."""
        self._check(layer)
        values, pull_back = torch.func.vjp(  # type: ignore[misc]  # three with has_aux alone
            lambda x: features(self._network, self._params, x, layer=layer).mean(0), self._inputs
        )

        def slopes_of(direction: Tensor) -> Tensor:
            """Length of one feature's slopes in each example's own input, [example]."""
            slopes: Tensor = pull_back(direction.expand_as(values))[0]
            lengths: Tensor = slopes.movedim(1, 0).flatten(1).norm(dim=1)
            return lengths

        each = torch.eye(values.shape[1])
        slopes = torch.func.vmap(slopes_of, chunk_size=_FEATURES_AT_ONCE)(each)
        return values.detach().numpy(), slopes.detach().T.numpy()

    def _check(self, layer: str) -> None:
        dense = [n for n, m in self._network.named_children() if isinstance(m, nn.Linear)]
        if layer not in dense:
            raise ConfigError(
                f"model {self._network.spec.name!r} has no fully connected layer {layer!r}; "
                f"there are {', '.join(dense)}"
            )
