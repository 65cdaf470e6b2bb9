"""What the gradients of convolutions add to the features: equations for what each received.

With the loss's slopes d in a convolution's outputs, its gradient in the weight is sum over places p
of d[p] x[p]^T, x[p] being the patch of its input that p sees. Slopes depend on the input through
the activations' derivatives alone, of which most are right where a candidate is near the truth, so
they are held fixed; then the gradient is linear in the patches.

The few wrong ones put a sum of patches into the gradient. Its covariance is that of the patches,
and the distance is weighed by the inverse of it (generalised least squares). Without that, what
wrong slopes add outweighs all that right ones say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedcore.nn.functional import Params, run
from fedcore.nn.models import READOUT
from fedcore.nn.models.network import Network

__all__ = ["FrozenConvolution", "frozen_convolutions"]

_FLOOR = 1e-3  # of the patches' mean variance, in directions that they hardly have
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class FrozenConvolution:
    """A convolution at fixed slopes, for many candidates.

    Attributes:
        layer: gives kernel, stride and padding.
        slopes: of the loss in its outputs, [row, channel out, time and place].
        target: its weight's observed gradient, [row, channel out, channel in and kernel].
        factor: lower Cholesky factor of the patches' covariance, [row, same, same].
    """

    layer: nn.Conv2d
    slopes: Tensor
    target: Tensor
    factor: Tensor

    def distance(self, received: Tensor) -> Tensor:
        """Squared distance from the observed gradient beside the slopes' energy, [row].

        Args:
            received: by the layer, [time, row, channel in, height, width].
        """
        found = self.slopes @ _patches(self.layer, received).mT
        weighed = torch.linalg.solve_triangular(self.factor, (found - self.target).mT, upper=False)
        energy = self.slopes.square().sum((1, 2)).clamp(min=_TINY)
        distance: Tensor = weighed.square().sum((1, 2)) / energy
        return distance


def frozen_convolutions(
    network: Network,
    params: Params,
    inputs: Tensor,
    *,
    observed: Mapping[str, Tensor],
) -> dict[str, FrozenConvolution]:
    """Every convolution with a gradient, by name, at the slopes that these candidates give.

    Args:
        network: that conventional neurons make up.
        params: its weights.
        inputs: [time, row, feature...].
        observed: gradients by name of the parameter, [row, ...]; that in the readout's bias is
            the loss's slopes in the logits.
    """
    layers = {
        name: layer
        for name, layer in network.named_children()
        if isinstance(layer, nn.Conv2d) and bool(observed[f"{name}.weight"].any())
    }
    if not layers:
        return {}
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))
        for layer in layers.values()
    ]
    came_about = run(network, params, inputs.detach().requires_grad_())
    for hook in hooks:
        hook.remove()
    slopes = torch.autograd.grad(came_about.logits, outputs, observed[f"{READOUT}.bias"])
    n_steps = len(inputs)
    return {
        name: _frozen(
            layer,
            slopes=_by_row(of_outputs.flatten(2), n_steps=n_steps),
            received=came_about.received[name].detach(),
            target=observed[f"{name}.weight"].flatten(2),
        )
        for (name, layer), of_outputs in zip(layers.items(), slopes, strict=True)
    }


def _frozen(
    layer: nn.Conv2d, *, slopes: Tensor, received: Tensor, target: Tensor
) -> FrozenConvolution:
    patches = _patches(layer, received)
    covariance = patches @ patches.mT / patches.shape[2]
    floor = _FLOOR * covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=_TINY)
    covariance = covariance + floor[:, None, None] * torch.eye(len(covariance[0]))
    factor, _ = torch.linalg.cholesky_ex(covariance)
    return FrozenConvolution(layer=layer, slopes=slopes, target=target, factor=factor)


def _patches(layer: nn.Conv2d, received: Tensor) -> Tensor:
    """What each output place sees, [row, channel in and kernel, time and place]."""
    seen = F.unfold(
        received.flatten(0, 1),
        layer.kernel_size,
        padding=layer.padding,  # type: ignore[arg-type]  # numbers, in all our models
        stride=layer.stride,
    )
    return _by_row(seen, n_steps=len(received))


def _by_row(values: Tensor, *, n_steps: int) -> Tensor:
    """[time and row, value, place] -> [row, value, time and place]."""
    return values.reshape(n_steps, -1, *values.shape[1:]).movedim(0, 2).flatten(2)
