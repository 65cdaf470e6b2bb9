"""From a candidate to the network's input, and back to what the victim's raw input looks like.

The draw of a client's encoding is secret, and it is never used here, even where the threat model
grants it: a granted draw is the network's input itself, and matching gradients for it would find
what is known. What is optimised instead, by encoding:

| encoding | candidate                      | network's input    | shown as raw input           |
|----------|--------------------------------|--------------------|------------------------------|
| direct   | the input, [batch, feature...] | repeated: exact    | itself                       |
| rate     | the input, [batch, feature...] | the expected train | itself                       |
| latency  | the train, [time, batch, ...]  | itself, relaxed    | brightness by time of firing |
| delta    | the train, [time, batch, ...]  | itself, relaxed    | the signal: changes added up |
| events   | the train, [time, batch, ...]  | itself, relaxed    | frames, [batch, time, ...]   |

"Relaxed" spikes may take any value between those of a spike and none. Frames have the raw input's
shape where the encoding kept one step per frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedcore.data.encodings import encoding_of
from fedcore.errors import AttackError
from fedcore.nn.arrays import to_tensor
from fedcore.plan import EncodingSpec
from fedcore.seeds import stream

__all__ = ["InputView", "draws_view", "input_view", "train_view"]


@dataclass(frozen=True, kw_only=True)
class InputView:
    """A candidate's shape, range and meaning.

    Attributes:
        shape: of a candidate.
        low: smallest possible value.
        high: largest possible value.
        to_network: candidate -> [time, batch, feature...], differentiable.
        to_raw: candidate -> raw input in [0, 1], [batch, feature...].
        is_train: whether a candidate is the train itself and no input behind it.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    to_network: Callable[[Tensor], Tensor]
    to_raw: Callable[[Tensor], Tensor]
    is_train: bool = False


def input_view(spec: EncodingSpec, *, input_shape: tuple[int, ...], batch_size: int) -> InputView:
    """How to search for the inputs behind an encoding.

    Args:
        spec: the plan's encoding.
        input_shape: of one example as the network sees it at one step.
        batch_size: examples to find.

    Raises:
        AttackError: nothing is known here about this encoding.
    """
    if spec.name not in _VIEWS:
        raise AttackError(
            f"encoding {spec.name!r} has no relaxed input here (known: {', '.join(_VIEWS)})"
        )
    encoding = encoding_of(spec)
    return _VIEWS[spec.name](encoding, spec.n_steps, (batch_size, *input_shape))


def train_view(
    spec: EncodingSpec, *, input_shape: tuple[int, ...], batch_size: int, is_binary: bool
) -> InputView:
    """How to search for the train itself where a draw lies between it and the input.

    Args:
        spec: the plan's encoding.
        input_shape: of one example as the network sees it at one step.
        batch_size: examples to find.
        is_binary: whether the network gets the nearest spikes, as if they were the candidate where
            it is differentiated (straight through); otherwise relaxed ones.

    Raises:
        AttackError: nothing is known here about this encoding, or its train is the input itself.
    """
    if spec.name == "direct":
        raise AttackError("encoding 'direct' has no spikes: its train is the input itself")
    view = input_view(spec, input_shape=input_shape, batch_size=batch_size)
    if spec.name == "rate":
        encoding: Any = encoding_of(spec)
        view = _train(
            spec.n_steps,
            (batch_size, *input_shape),
            to_raw=lambda spikes: spikes.mean(0) / encoding.max_rate,
        )
    return _rounded(view) if is_binary else view


def draws_view(
    spec: EncodingSpec, *, input_shape: tuple[int, ...], batch_size: int, n_draws: int
) -> InputView:
    """How to search for an input through draws of its rate encoding, as a client would make them.

    The network gets `n_draws` copies of the batch one after another, each under a draw of its own,
    so that the gradient of its mean loss is the mean gradient over draws. All candidates meet the
    same random numbers; a spike is differentiated as if it were its probability (straight through).

    Args:
        spec: the plan's encoding, which must be "rate".
        input_shape: of one example as the network sees it at one step.
        batch_size: examples to find.
        n_draws: copies of the batch.
    """
    encoding: Any = encoding_of(spec)
    view = input_view(spec, input_shape=input_shape, batch_size=batch_size)
    shape = (spec.n_steps, n_draws * batch_size, *input_shape)
    uniform = to_tensor(stream(0, "expected draws").random(shape, dtype=np.float32))

    def to_network(image: Tensor) -> Tensor:
        rates: Tensor = encoding.max_rate * image.repeat(n_draws, *(1 for _ in input_shape))
        spikes = (uniform < rates).to(rates)
        return rates + (spikes - rates).detach()

    return replace(view, to_network=to_network)


def _rounded(view: InputView) -> InputView:
    return replace(
        view,
        to_network=lambda spikes: spikes + (spikes.round() - spikes).detach(),
        to_raw=lambda spikes: view.to_raw(spikes.round()),
    )


def _direct(_: Any, n_steps: int, shape: tuple[int, ...]) -> InputView:
    return _repeated(n_steps, shape, factor=1.0)


def _rate(encoding: Any, n_steps: int, shape: tuple[int, ...]) -> InputView:
    return _repeated(n_steps, shape, factor=encoding.max_rate)


def _repeated(n_steps: int, shape: tuple[int, ...], *, factor: float) -> InputView:
    return InputView(
        shape=shape,
        low=0.0,
        high=1.0,
        to_network=lambda image: (factor * image).expand(n_steps, *shape),
        to_raw=lambda image: image.clamp(0, 1),
    )


def _latency(_: Any, n_steps: int, shape: tuple[int, ...]) -> InputView:
    # A feature x fires in step t where 1 - (t + 1)/T < x <= 1 - t/T: take the middle.
    middles = 1 - (torch.arange(n_steps) + 0.5) / n_steps
    return _train(n_steps, shape, to_raw=lambda spikes: torch.tensordot(middles, spikes, dims=1))


def _delta(encoding: Any, n_steps: int, shape: tuple[int, ...]) -> InputView:
    def integrated(spikes: Tensor) -> Tensor:
        # The train says how the signal changed and not where it began: put its lowest point at 0.
        level = (encoding.threshold * spikes).cumsum(0)
        signal: Tensor = (level - level.amin(0)).movedim(0, encoding.time_axis)
        return signal

    return _train(n_steps, shape, to_raw=integrated, low=-1.0 if encoding.off_spikes else 0.0)


def _events(_: Any, n_steps: int, shape: tuple[int, ...]) -> InputView:
    return _train(n_steps, shape, to_raw=lambda spikes: spikes.movedim(0, 1))


def _train(
    n_steps: int,
    shape: tuple[int, ...],
    *,
    to_raw: Callable[[Tensor], Tensor],
    low: float = 0.0,
) -> InputView:
    return InputView(
        shape=(n_steps, *shape),
        low=low,
        high=1.0,
        to_network=lambda spikes: spikes,
        to_raw=lambda spikes: to_raw(spikes).clamp(0, 1),
        is_train=True,
    )


_VIEWS: dict[str, Callable[[Any, int, tuple[int, ...]], InputView]] = {
    "delta": _delta,
    "direct": _direct,
    "events": _events,
    "latency": _latency,
    "rate": _rate,
}
