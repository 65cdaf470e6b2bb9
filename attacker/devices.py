"""What an attack computes on: the CPU, or a graphics card that CUDA drives.

The device belongs to the attacking process, like its threads, and no attack knows it: tensors come
about on torch's default device, arrays become tensors there and tensors become arrays again in
`fedcore.nn.arrays` alone. Analytic steps on arrays (`attacker.exact`) stay on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from fedcore.errors import AttackError, ConfigError

__all__ = ["computing_on"]


@contextlib.contextmanager
def computing_on(device: str) -> Iterator[None]:
    """Attacks in this context, and in this thread, compute on the device.

    Every random number is drawn on the CPU and brought over, so that a seed gives the same starts
    on every device; sums are rounded in another order there, and searches may end elsewhere.
    Convolutions keep float32 where cards would shorten it to TF32, which leaves gradients with
    three digits.

    Args:
        device: "cpu", "cuda" or "cuda:0", "cuda:1", ...

    Raises:
        ConfigError: there is no such device here.
        AttackError: what the context holds is too large for the card.
    """
    n_cards = torch.cuda.device_count()
    there = ["cpu", *(["cuda"] if n_cards else []), *(f"cuda:{i}" for i in range(n_cards))]
    if device not in there:
        raise ConfigError(
            f"device: got {device!r}, expected what attacks can compute on here: {', '.join(there)}"
        )
    if device == "cpu":
        yield
        return
    with (
        torch.device(device),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
    ):
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise AttackError(
                f"device {device!r} has too little memory for this; take fewer restarts, or "
                "attack on the CPU"
            ) from error
