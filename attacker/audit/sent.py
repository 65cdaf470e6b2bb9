"""What a client sent, from wherever it was kept: a file, bytes, or arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch

from fedcore.errors import ConfigError
from fedcore.npz import read_npz
from fedcore.types import TensorMap

__all__ = ["Kind", "Sent", "Source", "read_tensors"]

Kind = Literal["gradient", "delta", "weights"]
"""What the tensors are: the gradient of one batch, new minus old weights, or new weights."""

Source = str | Path | bytes | Mapping[str, Any] | Sequence[Any]
"""A file (.safetensors or .npz), the bytes of a safetensors file, arrays or tensors by name, or,
without names, in the order of the module's `state_dict()` or of its parameters."""


@dataclass(frozen=True)
class Sent:
    """One client's update and what is known of how it was made.

    Attributes:
        tensors: float32 by name; given as any `Source`.
        kind: what they are.
        n_examples: distinct examples behind it.
        batch_size: examples of one local step; None where every step saw all of them.
        local_steps: SGD steps behind a delta or new weights.
        learning_rate: of these steps. With one step it only scales the update, which most attacks
            do not notice; with several it has to be known.
    """

    tensors: Source
    _: KW_ONLY
    kind: Kind = "gradient"
    n_examples: int = 1
    batch_size: int | None = None
    local_steps: int = 1
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(
                f"kind {self.kind!r}: expected one of {', '.join(map(repr, get_args(Kind)))}"
            )
        if self.n_examples < 1:
            raise ConfigError(f"n_examples must be >= 1; got {self.n_examples}")
        if self.local_steps > 1 and self.learning_rate is None:
            raise ConfigError(
                f"learning_rate: an update of {self.local_steps} local steps cannot do without it"
            )
        object.__setattr__(self, "tensors", read_tensors(self.tensors))


def read_tensors(source: Source) -> TensorMap:
    """Arrays by name, float32 where they were floating; without names they are called "0", "1"...

    Raises:
        ConfigError: this is no such source; the message says what is wrong.
    """
    if isinstance(source, bytes):
        found: Mapping[str, Any] = _from_safetensors(source, where="the update's bytes")
    elif isinstance(source, (str, Path)):
        found = _from_file(Path(source))
    elif isinstance(source, Mapping):
        found = source
    elif isinstance(source, Sequence):
        found = {str(i): tensor for i, tensor in enumerate(source)}
    else:
        raise ConfigError(
            f"got {type(source).__name__}, expected a file, its bytes, or arrays by name"
        )
    if not found:
        raise ConfigError("there is no tensor in it")
    return {name: _array(value, name=name) for name, value in found.items()}


def _from_file(path: Path) -> Mapping[str, Any]:
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if path.suffix == ".safetensors":
        return _from_safetensors(blob, where=str(path))
    if path.suffix == ".npz":
        try:
            return read_npz(blob)
        except ValueError as error:
            raise ConfigError(f"{path}: no archive of plain arrays ({error})") from error
    raise ConfigError(
        f"{path}: expected .safetensors or .npz (a .pt file is a pickle, which can run code when "
        "it is read: torch.load it where you trust it, and keep it with "
        "safetensors.torch.save_file)"
    )


def _from_safetensors(blob: bytes, *, where: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = safetensors.torch.load(blob)
    except safetensors.SafetensorError as error:
        raise ConfigError(f"{where}: not safetensors ({error})") from error
    return found


def _array(value: Any, *, name: str) -> np.ndarray:
    tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else None
    if tensor is not None and tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    array = np.asarray(value if tensor is None else tensor.numpy())
    if array.dtype.kind not in "fiub":
        raise ConfigError(f"{name}: got {array.dtype}, expected numbers")
    return array.astype(np.float32) if array.dtype.kind == "f" else array
