"""Pruning what gives the most away of a representation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcore.defences.base import Defence, OwnBatch
from fedcore.errors import ConfigError
from fedcore.types import TensorMap

__all__ = ["Soteria"]

_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Soteria(Defence):
    """Sun et al. 2021 (arXiv 2012.06043): what a layer received is pruned where it tells most.

    Of the features r that a fully connected layer receives, those with the largest
    |r| / |d r / d input| are taken for zero when the gradient in its weight is made: its columns
    there are zero. Of a batch the ratios are added up, since all its examples share the columns.

    Attributes:
        layer: whose input is pruned.
        fraction: of the features that are not silent anyway, in [0, 1].
    """

    layer: str = "readout"
    fraction: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ConfigError(f"fraction must lie in [0, 1]; got {self.fraction}")

    def informed_update(self, tensors: TensorMap, batch: OwnBatch) -> TensorMap:
        """Prune.

        Raises:
            ConfigError: the model has no fully connected layer of that name.
        """
        values, slopes = batch.sensitivity(self.layer)
        told = np.sum(np.abs(values) / np.maximum(slopes, _TINY), axis=0)
        n_pruned = round(self.fraction * np.count_nonzero(told))
        pruned = np.argsort(-told, kind="stable")[:n_pruned]
        weight = tensors[f"{self.layer}.weight"].copy()
        weight[:, pruned] = 0
        return {**tensors, f"{self.layer}.weight": weight}
