"""The deep image prior, on gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from attacker.attacks.generated import GeneratorMatching
from attacker.generators.base import Canvas, Generated
from attacker.generators.hourglass import Hourglass
from attacker.generators.structure import Structure
from attacker.inputs import InputView
from fedcore.errors import ConfigError

__all__ = ["DeepPrior"]

_N_LATENT = 32


@dataclass(frozen=True, kw_only=True)
class DeepPrior(GeneratorMatching):
    """The prior of Ulyanov et al. 2018 (arXiv 1711.10925) with the loss of Inverting Gradients.

    An hourglass network that draws natural images from noise more readily than it draws noise; here
    with same-level skips and bilinear upsampling, and smaller than theirs.

    Attributes:
        levels: halvings of the sides, at most; fewer where the image is small.
    """

    name: ClassVar[str] = "deep-prior"

    levels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels < 1:
            raise ConfigError(f"levels must be >= 1; got {self.levels}")

    def searched(self, view: InputView, *, n_classes: int, seed: int) -> Generated:
        """The hourglass's weights."""
        del n_classes
        canvas = Canvas(view=view)
        same_level = tuple((level, level) for level in range(self._n_levels(canvas)))
        return self._hourglass(canvas, Structure(skips=same_level), seed=seed)

    def _hourglass(self, canvas: Canvas, structure: Structure, *, seed: int) -> Generated:
        n_levels = self._n_levels(canvas)
        sides = [side * 2**n_levels for side in canvas.halved(n_levels)]
        return Generated.by(
            partial(
                Hourglass,
                canvas,
                structure,
                n_latent=_N_LATENT,
                channels=self.channels,
                n_levels=n_levels,
            ),
            canvas=canvas,
            latent_shape=(canvas.n_examples, _N_LATENT, *sides),
            seed=seed,
        )

    def _n_levels(self, canvas: Canvas) -> int:
        return max(1, min(self.levels, canvas.n_doublings))
