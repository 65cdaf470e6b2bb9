"""numpy <-> torch: the only place where arrays become tensors and tensors become arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedcore.types import TensorMap

__all__ = ["to_array", "to_arrays", "to_tensor", "to_tensors"]


def to_tensor(array: np.ndarray) -> Tensor:
    """A tensor with memory of its own, on torch's default device."""
    return torch.as_tensor(np.array(array))


def to_tensors(arrays: TensorMap) -> dict[str, Tensor]:
    """Tensors by name, in the same order."""
    return {name: to_tensor(array) for name, array in arrays.items()}


def to_array(tensor: Tensor) -> np.ndarray:
    """An array with memory of its own, off any graph and device."""
    return np.array(tensor.detach().cpu().numpy())


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Arrays by name, in the same order."""
    return {name: to_array(tensor) for name, tensor in tensors.items()}
