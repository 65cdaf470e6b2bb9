"""The weights of an untrained network, as the variables of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log2, prod, sqrt

import numpy as np
import torch
from torch import Tensor, nn

from attacker.inputs import InputView
from fedcore.nn.arrays import to_tensor
from fedcore.seeds import stream

__all__ = ["Canvas", "Generated"]

_SMALLEST_SIDE = 4  # about; doublings lead from here to the candidate


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What a generator draws: a view's candidates, with steps and channels side by side.

    Attributes:
        view: its examples are images or series.
    """

    view: InputView

    @property
    def n_examples(self) -> int:
        """Of a candidate."""
        return self.view.shape[self._example_axis]

    @property
    def n_spatial(self) -> int:
        """2 for height and width, 1 for length."""
        return min(len(self.view.shape) - self._example_axis - 2, 2)

    @property
    def space(self) -> tuple[int, ...]:
        """The sides: height and width, or length."""
        return self.view.shape[-self.n_spatial :]

    @property
    def n_channels(self) -> int:
        """Of an example, times steps where a train is drawn."""
        return prod(self.view.shape) // (self.n_examples * prod(self.space))

    @property
    def n_doublings(self) -> int:
        """That lead from a smallest side of about 4 to the candidate's."""
        return max(0, round(log2(min(self.space) / _SMALLEST_SIDE)))

    def halved(self, n_times: int) -> tuple[int, ...]:
        """Sides that cover the candidate's when they are doubled so many times."""
        return tuple(-(-side // 2**n_times) for side in self.space)

    def candidate(self, drawn: Tensor) -> Tensor:
        """The middle of what was drawn, squashed into the view's range.

        Args:
            drawn: [example, channel, side...], any numbers; sides as the candidate's or larger.
        """
        for axis, side in enumerate(self.space, start=2):
            drawn = drawn.narrow(axis, (drawn.shape[axis] - side) // 2, side)
        values = self.view.low + (self.view.high - self.view.low) * drawn.sigmoid()
        before_space = list(self.view.shape[: -self.n_spatial])
        del before_space[self._example_axis]
        apart = values.reshape(self.n_examples, *before_space, *self.space)
        return apart.movedim(0, self._example_axis)

    @property
    def _example_axis(self) -> int:
        return 1 if self.view.is_train else 0


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A candidate that a network draws from a latent; the latent stays, the weights are searched.

    Attributes:
        canvas: on which it draws.
        networks: "image" makes [example, channel, side...] of the latent; "label", where labels are
            searched along, logits [example, class]. Their parameters only say names and shapes.
        latent: of all rows.
    """

    canvas: Canvas
    networks: nn.ModuleDict
    latent: Tensor

    @classmethod
    def by(
        cls,
        image: Callable[[], nn.Module],
        *,
        canvas: Canvas,
        latent_shape: tuple[int, ...],
        seed: int,
        label: Callable[[], nn.Module] | None = None,
    ) -> Generated:
        """Networks without weights and a latent from N(0, 1).

        Args:
            image: makes the network that draws.
            canvas: on which it draws.
            latent_shape: [example, ...].
            seed: of the attack.
            label: makes the network that names the labels, where they are searched along.
        """
        with torch.device("meta"):
            networks = nn.ModuleDict({"image": image()} | ({"label": label()} if label else {}))
        latent = stream(seed, "latent").normal(size=latent_shape)
        return cls(canvas=canvas, networks=networks, latent=to_tensor(latent.astype(np.float32)))

    @property
    def n_variables(self) -> int:
        """Weights of all networks."""
        return sum(p.numel() for p in self.networks.parameters())

    def begin(self, draws: Tensor) -> Tensor:
        """Weights of deviation 1/sqrt(inputs per neuron), biases 0, gains of normalisations 1.

        Args:
            draws: N(0, 1), [row, variable].
        """
        means, deviations = [], []
        for name, parameter in self.networks.named_parameters():
            is_weight, is_gain = parameter.dim() > 1, name.endswith("weight")
            deviation = 1 / sqrt(prod(parameter.shape[1:])) if is_weight else 0.0
            means.append(torch.full((parameter.numel(),), float(is_gain and not is_weight)))
            deviations.append(torch.full((parameter.numel(),), deviation))
        return torch.cat(means) + torch.cat(deviations) * draws

    def candidate(self, row: Tensor) -> Tensor:
        """What these weights draw."""
        return self.canvas.candidate(self._run("image", row))

    def logits(self, row: Tensor) -> Tensor:
        """What these weights make of the latent as labels."""
        return self._run("label", row)

    def within_range(self, rows: Tensor) -> Tensor:
        """All of them: whatever is drawn is in the range."""
        return rows

    def _run(self, which: str, row: Tensor) -> Tensor:
        weights, n_before = {}, 0
        for name, parameter in self.networks.named_parameters():
            values = row[n_before : n_before + parameter.numel()]
            weights[name] = values.reshape(parameter.shape)
            n_before += parameter.numel()
        own = {
            name.removeprefix(f"{which}."): values
            for name, values in weights.items()
            if name.startswith(f"{which}.")
        }
        made: Tensor = torch.func.functional_call(self.networks[which], own, (self.latent,))
        return made
