"""A function of one tensor, recorded while it runs and played back from then on.

Under torch.func's transforms most of the time of a small network goes into preparing operations,
not into carrying them out. A recording holds the bare operations: the same ones, on the same
numbers, with the same results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedcore.errors import AttackError

__all__ = ["PLAIN_CALLS", "Recorded"]

PLAIN_CALLS = 200  # recording takes as long as it saves in about so many calls


class Recorded:
    """Calls a function, and plays its operations back once recording them is worth it.

    Args:
        function: of a tensor, with tensors as results; what it does depends on the tensor's shape,
            never on its values or on anything that changes.
        compiles: whether to compile the recording, at once (`torch.compile`): half a minute and
            more, for another third of the time. Then a call raises AttackError where this machine
            cannot compile.
    """

    def __init__(self, function: Callable[[Tensor], Any], *, compiles: bool = False) -> None:
        self._function = function
        self._compiles = compiles
        self._n_calls = 0
        self._recording: Callable[[Tensor], Any] | None = None
        self._shape: torch.Size | None = None

    def __call__(self, x: Tensor) -> Any:
        """What the function returns, without its graph for derivatives."""
        self._n_calls += 1
        if self._recording is None and (self._compiles or self._n_calls > PLAIN_CALLS):
            self._record(x)
        with torch.no_grad():
            if self._recording is None or x.shape != self._shape:
                return self._function(x)
            return self._recording(x)

    def _record(self, x: Tensor) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx  # takes a second, and few need it

        recording = make_fx(functools.partial(self._function))(x)  # a method's self counts there
        recording.graph.eliminate_dead_code()
        recording.recompile()
        self._recording = _compiled(recording, x) if self._compiles else recording
        self._shape = x.shape


def _compiled(recording: Callable[[Tensor], Any], x: Tensor) -> Callable[[Tensor], Any]:
    """Compiled by a first call.

    Raises:
        AttackError: torch.compile cannot; most often no C++ compiler is installed.
    """
    compiled: Callable[[Tensor], Any] = torch.compile(recording)
    try:
        with torch.no_grad():
            compiled(x)
    except RuntimeError as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AttackError(
            f"compiles: torch.compile could not compile the search ({why}); it needs a C++ "
            "compiler such as g++, and triton for a graphics card; install them, or set "
            "compiles = false"
        ) from error
    return compiled
