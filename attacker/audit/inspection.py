"""What a trial run says about a module that nobody here has written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedcore.errors import ConfigError

__all__ = ["Inspection", "first_line", "inspect"]

_N_TRIED = 3
_SPIKING_LIBRARIES = {"lava", "norse", "sinabs", "snntorch", "spikingjelly"}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """How a module is built, as far as attacks use it.

    Attributes:
        n_classes: logits per example.
        layers: paths of the modules that have parameters of their own, in the order of first use;
            unused ones last.
        readout: the one of them whose outputs are the logits; None where there is none.
        first_is_raw: whether the first of them receives the flattened or whole raw input, and no
            other.
        mixes_examples: whether an example's logits depend on the others of its batch.
        is_spiking: whether it holds neurons of a known library of spiking networks.
        normalised: from raw inputs [batch, feature...] in [0, 1] to what the module receives.
    """

    n_classes: int
    layers: tuple[str, ...]
    readout: str | None
    first_is_raw: bool
    mixes_examples: bool
    is_spiking: bool
    normalised: Callable[[Tensor], Tensor]


_Call = tuple[str, Tensor | None]
"""The path of a layer that began its work, and what it received first."""


def inspect(
    module: nn.Module, *, input_shape: tuple[int, ...], normalised: Callable[[Tensor], Tensor]
) -> Inspection:
    """Run a module on a few random inputs and look.

    Args:
        module: in the mode (training or not) in which clients use it.
        input_shape: of one example.
        normalised: see `Inspection`.

    Raises:
        ConfigError: it does not run on such inputs, gives no logits, or not the same ones twice.
    """
    raw = torch.rand(_N_TRIED, *input_shape, generator=torch.Generator().manual_seed(0))
    logits, calls = _recorded(module, normalised(raw))
    again = _run(module, normalised(raw))
    if not _are_close(logits, again):
        raise ConfigError(
            "two runs of the module on the same input differ: it is random (Dropout in training "
            "mode?) or keeps a state; call eval(), or let it begin anew in forward"
        )
    fewer = _run(module, normalised(raw[:-1]))
    used = dict.fromkeys(path for path, _ in calls)
    unused = [path for path, _ in _owners(module) if path not in used]
    return Inspection(
        n_classes=logits.shape[1],
        layers=(*used, *unused),
        readout=_readout(module, calls, logits),
        first_is_raw=bool(calls)
        and all(_is_same(given, raw) for path, given in calls if path == calls[0][0]),
        mixes_examples=not _are_close(fewer, logits[:-1]),
        is_spiking=any(
            type(part).__module__.partition(".")[0] in _SPIKING_LIBRARIES
            for part in module.modules()
        ),
        normalised=normalised,
    )


def _owners(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules with parameters of their own, by path."""
    return [
        (path, part)
        for path, part in module.named_modules()
        if any(True for _ in part.parameters(recurse=False))
    ]


def _recorded(module: nn.Module, inputs: Tensor) -> tuple[Tensor, list[_Call]]:
    """The logits, and the layers in the order in which they began."""
    calls: list[_Call] = []

    def note(path: str, _: nn.Module, given: tuple[Any, ...]) -> None:
        is_tensor = bool(given) and isinstance(given[0], Tensor)
        calls.append((path, given[0].clone() if is_tensor else None))

    hooks = [part.register_forward_pre_hook(partial(note, path)) for path, part in _owners(module)]
    try:
        return _run(module, inputs), calls
    finally:
        for hook in hooks:
            hook.remove()


def _run(module: nn.Module, inputs: Tensor) -> Tensor:
    """Logits [batch, class] of a module that a stranger wrote."""
    try:
        with torch.no_grad():
            said = module(inputs)
    except Exception as error:  # a stranger's code may raise anything
        raise ConfigError(
            f"the module does not run on inputs of shape {list(inputs.shape)}: {first_line(error)}"
        ) from error
    if not isinstance(said, Tensor) or said.ndim != 2 or len(said) != len(inputs):
        got = list(said.shape) if isinstance(said, Tensor) else type(said).__name__
        raise ConfigError(
            f"the module returns {got}, expected logits [batch, class]; wrap it in one that "
            "returns them"
        )
    return said


def first_line(error: BaseException) -> str:
    """An exception of somebody else's code, for the end of a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


def _readout(module: nn.Module, calls: list[_Call], logits: Tensor) -> str | None:
    """The linear layer, used once, whose outputs are the logits or have them as log-softmax."""
    path, features = calls[-1] if calls else ("", None)
    layer = module.get_submodule(path)
    is_alone = sum(other == path for other, _ in calls) == 1
    if not isinstance(layer, nn.Linear) or set(layer._parameters) != {"weight", "bias"}:
        return None
    if not is_alone or features is None or features.ndim != 2:
        return None
    outputs = layer(features)
    is_said = any(_are_close(logits, said) for said in (outputs, outputs.log_softmax(1)))
    return path if is_said else None


def _are_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def _is_same(given: Tensor | None, raw: Tensor) -> bool:
    """Whether a layer received the raw input, in its own shape or flattened."""
    if given is None or given.numel() != raw.numel():
        return False
    return torch.equal(given.reshape(len(raw), -1), raw.flatten(1))
