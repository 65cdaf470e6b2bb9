"""Gradient inversion by an over-parameterised generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import ClassVar

from attacker.attacks.generated import GeneratorMatching
from attacker.generators.base import Canvas, Generated
from attacker.generators.growing import over_parameterised
from attacker.inputs import InputView

__all__ = ["OverParameterised"]

_N_LATENT = 128


@dataclass(frozen=True, kw_only=True)
class OverParameterised(GeneratorMatching):
    """GION of Zhang et al. 2023 (ICCV, "CI-Net"): more weights than pixels, from random vectors.

    As in the authors' code the loss is that of Inverting Gradients, the vectors are drawn once and
    have 128 numbers for each example, and Adam follows signs. Theirs takes thousands of steps of
    0.001, without a weight on total variation.

    Attributes:
        channels: doubled until there are more than four times as many weights as pixels.
    """

    name: ClassVar[str] = "gion"

    def searched(self, view: InputView, *, n_classes: int, seed: int) -> Generated:
        """The generator's weights."""
        del n_classes
        canvas, channels = Canvas(view=view), self.channels
        n_pixels = canvas.n_examples * prod(canvas.space)
        while True:
            generated = Generated.by(
                partial(over_parameterised, canvas, n_latent=_N_LATENT, channels=channels),
                canvas=canvas,
                latent_shape=(canvas.n_examples, _N_LATENT),
                seed=seed,
            )
            if generated.n_variables > 4 * n_pixels:
                return generated
            channels *= 2
