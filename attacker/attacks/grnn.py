"""Generative regression neural network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from attacker.attacks.generated import GeneratorMatching
from attacker.attacks.matching import LabelSource
from attacker.generators.base import Canvas, Generated
from attacker.generators.growing import gated
from attacker.inputs import InputView
from attacker.objectives import squared_distance
from attacker.priors import total_variation

__all__ = ["GenerativeRegression"]

_N_LATENT = 128
_TINY = 1e-20  # keeps the slope of a length finite where the length is 0


@dataclass(frozen=True, kw_only=True)
class GenerativeRegression(GeneratorMatching):
    """GRNN of Ren, Deng and Xie 2022 (arXiv 2105.00529): two branches draw inputs and labels.

    Their loss is the squared distance of the gradients, their Wasserstein distance and the total
    variation of the image. What their code computes as the second is the Euclidean distance, and
    so does this one; both are of gradients divided by the observed one's length.

    Attributes:
        labels: by a fully connected branch, unless another source is named.
        learning_rate: larger than of other generators, as this one ends in a normalisation.
        channels: before the last doubling of the sides, twice as many before each other; 32 in
            their code.
    """

    name: ClassVar[str] = "grnn"
    searches_labels: ClassVar[bool] = True

    labels: LabelSource = "joint"
    learning_rate: float = 0.05
    channels: int = 16

    def loss(
        self,
        found: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        candidate: Tensor,
        *,
        n_spatial: int,
    ) -> Tensor:
        """Distance, squared and not, and weighted total variation."""
        squared = squared_distance(found, target)
        distance = squared.clamp(min=_TINY).sqrt()
        prior = total_variation(candidate, n_spatial=n_spatial)
        return squared + distance + self.total_variation * prior

    def searched(self, view: InputView, *, n_classes: int, seed: int) -> Generated:
        """The weights of both branches."""
        canvas = Canvas(view=view)
        label = partial(nn.Linear, _N_LATENT, n_classes) if self.labels == "joint" else None
        return Generated.by(
            partial(gated, canvas, n_latent=_N_LATENT, channels=self.channels),
            label=label,
            canvas=canvas,
            latent_shape=(canvas.n_examples, _N_LATENT),
            seed=seed,
        )
