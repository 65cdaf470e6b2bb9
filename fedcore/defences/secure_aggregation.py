"""Secure aggregation: whoever sees the updates learns their sum, and nothing else of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedcore.cohort import Cohort
from fedcore.defences.base import Defence
from fedcore.errors import ConfigError, RunError
from fedcore.types import TensorMap

__all__ = ["SecureAggregation"]

_RING_BITS = 24  # float32 carries every whole number below 2^24
_RING = 1 << _RING_BITS


@dataclass(frozen=True, kw_only=True)
class SecureAggregation(Defence):
    """Masks that cancel in the sum of all clients (Bonawitz et al. 2017, without dropouts).

    A value becomes a whole number of `bits` bits, and a mask is added to it modulo 2^24; codec f32
    carries such numbers unchanged. A round needs the update of every client: there is no recovery
    of a missing one's masks, so that the round waits for it. All clients count alike in the mean,
    whatever number of examples they declare.

    Attributes:
        largest: magnitude at which values are cut.
        bits: of a value; 2^(24 - bits) clients can be summed.
    """

    largest: float = 1.0
    bits: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.largest < float("inf"):
            raise ConfigError(f"largest must be > 0 and finite; got {self.largest}")
        if not 2 <= self.bits < _RING_BITS:
            raise ConfigError(f"bits must lie in [2, {_RING_BITS - 1}]; got {self.bits}")

    @property
    def max_clients(self) -> int:
        """Whose sum the ring can hold."""
        return 1 << (_RING_BITS - self.bits)

    @property
    def _scale(self) -> float:
        """Of one step of the fixed-point numbers."""
        return self.largest / ((1 << (self.bits - 1)) - 1)

    def hidden(self, tensors: TensorMap, cohort: Cohort) -> TensorMap:
        """Whole numbers in [0, 2^24), float32."""
        return {name: self._hide(t, cohort.mask(name, t.size)) for name, t in tensors.items()}

    def aggregate(self, updates: Iterator[TensorMap]) -> Iterator[TensorMap]:
        """The mean of all, in the place of each.

        Raises:
            RunError: the masks do not cancel, or the updates are more than the ring can hold.
        """
        n_updates, total = 0, dict[str, np.ndarray]()
        for tensors in updates:
            n_updates += 1
            for name, tensor in tensors.items():
                total[name] = total.get(name, 0) + tensor.astype(np.int64)
        mean = {name: self._mean(whole, n_updates) for name, whole in total.items()}
        yield from [mean] * n_updates

    def _hide(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        cut = np.clip(np.asarray(values, dtype=np.float64), -self.largest, self.largest)
        steps = np.rint(cut / self._scale).astype(np.int64).reshape(-1)
        hidden: np.ndarray = ((steps + mask) % _RING).astype(np.float32)
        return hidden.reshape(np.shape(values))

    def _mean(self, total: np.ndarray, n_updates: int) -> np.ndarray:
        centred = (total + _RING // 2) % _RING - _RING // 2
        if n_updates > self.max_clients:
            raise RunError(
                f"{n_updates} updates of {self.bits} bits do not fit into the ring of secure "
                f"aggregation; at most {self.max_clients} do: lower its bits"
            )
        if (np.abs(centred) > n_updates << (self.bits - 1)).any():
            raise RunError(
                f"the masks of {n_updates} updates do not cancel: one is missing, or was made "
                "with other secrets"
            )
        mean: np.ndarray = (centred * (self._scale / n_updates)).astype(np.float32)
        return mean
