"""What label estimators read: the readout's gradient, and what it would be for known examples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from fedcore.data.encodings import encode
from fedcore.errors import AttackError, KnowledgeError
from fedcore.nn.arrays import to_array, to_tensor, to_tensors
from fedcore.nn.functional import features, step_weights
from fedcore.nn.models import READOUT
from fedcore.nn.models.network import Network
from fedcore.plan import EncodingSpec
from fedcore.seeds import stream
from fedcore.types import Knowledge, Observation, TensorMap

__all__ = ["Auxiliary", "Readout", "read"]

_EXAMPLES_AT_ONCE = 256  # bounds memory


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """Examples that the attacker holds, at the network under attack.

    Attributes:
        labels: int64 [example].
        residuals: softmax minus one-hot, [example, step, class]; one step where the loss is of
            logits that are already summed over time.
        features: what multiplies them in the gradient, [example, step, feature].
    """

    labels: np.ndarray
    residuals: np.ndarray
    features: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Readout:
    """The last layer and its gradient, the mean over a batch (and over steps, for "per_step").

    Attributes:
        weight: float64 [class, feature].
        bias: float64 [class], times the number that makes logits = weight @ features + bias.
        weight_slope: mean residual times features, float64 [class, feature].
        bias_slope: mean residual, float64 [class]; None where the update does not hold it, or holds
            zeros, as a defence may send.
        n_examples: in the batch.
        auxiliary: None where no such data are granted.
    """

    weight: np.ndarray
    bias: np.ndarray
    weight_slope: np.ndarray
    bias_slope: np.ndarray | None
    n_examples: int
    auxiliary: Auxiliary | None = None

    @property
    def n_classes(self) -> int:
        """Rows of the weight."""
        return len(self.weight)

    def need_bias_slope(self) -> np.ndarray:
        """The mean residual.

        Raises:
            AttackError: the update does not hold the gradient in the readout's bias.
        """
        if self.bias_slope is None:
            raise AttackError(
                f"this label estimator reads the gradient in '{READOUT}.bias', which the update "
                "does not hold; take 'llg', 'idlg' or 'gradinversion'"
            )
        return self.bias_slope

    def need_auxiliary(self) -> Auxiliary:
        """The examples that the attacker holds.

        Raises:
            KnowledgeError: the threat model does not grant them.
        """
        if self.auxiliary is None:
            raise KnowledgeError(
                "this label estimator needs 'auxiliary_data', which the threat model does not grant"
            )
        return self.auxiliary


def read(
    seen: Observation,
    told: Knowledge,
    *,
    gradient: TensorMap,
    n_examples: int,
    network: Network,
) -> Readout:
    """Take the readout's part of an update.

    Features are those of the logits: a spiking network's are its spikes, weighted as
    `fedcore.nn.functional.step_weights` says.

    Args:
        seen: gives weights, model and encoding.
        told: may hold auxiliary examples.
        gradient: by name.
        n_examples: behind it.
        network: that is attacked.

    Raises:
        AttackError: the gradient has another form, holds nothing of the readout's weight, or is
            not finite there.
    """
    spec, n_steps = seen.plan.model, seen.plan.encoding.n_steps
    counted = step_weights(spec, n_steps=n_steps)
    if counted is None and spec.readout != "per_step":
        raise AttackError(
            f"readout {spec.readout!r} of a spiking model lies behind a threshold: its gradient is "
            "no mean of residuals times features, which label estimators read"
        )
    if f"{READOUT}.weight" not in gradient:
        raise AttackError(f"the update does not hold the gradient in '{READOUT}.weight'")
    gain = 1.0 if counted is None else float(counted.sum())
    slope = gradient.get(f"{READOUT}.bias")
    bias = seen.weights.get(f"{READOUT}.bias", np.zeros(spec.n_classes))
    readout = Readout(
        weight=seen.weights[f"{READOUT}.weight"].astype(np.float64),
        bias=gain * bias.astype(np.float64),
        weight_slope=gradient[f"{READOUT}.weight"].astype(np.float64),
        bias_slope=slope.astype(np.float64) / gain if slope is not None and slope.any() else None,
        n_examples=n_examples,
    )
    if not all(np.isfinite(g).all() for g in (readout.weight_slope, slope) if g is not None):
        raise AttackError("the gradient in the readout holds NaN or infinite numbers")
    if told.auxiliary_inputs is None or told.auxiliary_labels is None:
        return readout
    known = _features(network, seen.weights, seen.plan.encoding, told.auxiliary_inputs, counted)
    return _with(readout, known, labels=told.auxiliary_labels)


def _features(
    network: Network,
    weights: TensorMap,
    encoding: EncodingSpec,
    inputs: np.ndarray,
    counted: torch.Tensor | None,
) -> np.ndarray:
    """Of the attacker's examples, [example, step, feature]; the draws are the attacker's own."""
    params = to_tensors(weights)
    parts = []
    for start in range(0, len(inputs), _EXAMPLES_AT_ONCE):
        draw = stream(0, "label-auxiliary", start)
        train = to_tensor(encode(encoding, inputs[start : start + _EXAMPLES_AT_ONCE], draw))
        with torch.no_grad():
            received = features(network, params, train)
        if counted is not None:
            received = torch.einsum("t,tbf->bf", counted.to(received), received)[None]
        parts.append(to_array(received.transpose(0, 1)))
    return np.concatenate(parts)


def _with(readout: Readout, known: np.ndarray, *, labels: np.ndarray) -> Readout:
    """The readout beside examples of these features [example, step, feature]."""
    logits = known @ readout.weight.T + readout.bias
    residuals = np.exp(logits - logits.max(axis=-1, keepdims=True))
    residuals /= residuals.sum(axis=-1, keepdims=True)
    residuals[np.arange(len(labels)), :, labels] -= 1
    return replace(readout, auxiliary=Auxiliary(labels=labels, residuals=residuals, features=known))
