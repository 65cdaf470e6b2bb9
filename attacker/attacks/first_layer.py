"""Exact recovery from the first fully connected layer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from attacker.attacks.base import NO_LABEL, Attack, Budget, NetworkOf, Progress, refusal
from attacker.exact.belief import MAX_STEPS, Evidence, likeliest
from attacker.exact.equations import MAX_FRAMES, obeying
from attacker.exact.factorise import Factorisation, factorise
from attacker.exact.order import KnownLayer, Ordering, in_order
from attacker.exact.subspace import largest_error
from attacker.gradients import batch_size_of, gradient_of
from attacker.inputs import input_view
from attacker.labels import label_candidates
from fedcore.data.encodings import encoding_of
from fedcore.errors import AttackError, ConfigError
from fedcore.nn.arrays import to_array, to_tensor
from fedcore.nn.functional import step_weights
from fedcore.nn.models import READOUT, build
from fedcore.nn.models.network import Network, Spiking
from fedcore.types import Knowledge, Observation, Reconstruction, TensorMap

__all__ = ["FirstLayer"]

_ORDERED = 1e-2  # misfit up to which the order counts as decided
_MAX_ALTERNATIVES = 300
_METHOD_NUMBERS = {"enumeration": 1.0, "differences": 2.0}


class _CannotError(Exception):
    """Why this victim has no candidate, in one line."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one victim gave away.

    Attributes:
        candidate: [batch, feature...].
        residual: share of the layer's gradient that it leaves unexplained.
        certificate: see `FirstLayer`.
        train: uint8 [time, batch, feature...], where frames were recovered.
    """

    candidate: np.ndarray
    residual: float
    certificate: Mapping[str, float]
    train: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class FirstLayer(Attack):
    """Reads the input from the gradient of a first layer that is fully connected.

    Direct coding, one example: every neuron's gradient is the input times the neuron's slope in
    its bias, so that x = sum_i b_i w_i / sum_i b_i^2; without a bias the input is found up to a
    factor, and its brightest feature is shown as 1. Binary trains (rate, latency, events, delta
    without off spikes), any batch: the gradient is slopes times binary frames, and is factorised
    (`attacker.exact`). Frames are then put in order through the layer's own equations, if it has
    LIF neurons with a detached reset and as many frames were found as there are. Where noise
    leaves no order, frames of one example are fitted again under the same equations: up to 16 of
    them directly before a readout of leaky integrators (`attacker.exact.belief`), up to 10
    elsewhere (`attacker.exact.equations`).

    The certificate holds `rank` (singular values above the codec's noise), `n_frames`, `residual`
    (relative), `noise` (the residual that the codec alone makes), `method` (0 ratio, 1
    enumeration, 2 differences), `consistent` (1 where noise explains the residual), `ordered` (1
    where the layer's equations hold along the frames), `ambiguous` (1 where another binary vector
    could stand for one of the frames and the layer's equations do not say which is true) and,
    without a bias, `scale_known` 0. "consistent" means a consistent factorisation and is no proof:
    sparse frames can have several, and then the first one whose frames can be put in order is
    taken.

    One restart, whatever the budget: nothing is drawn.

    Attributes:
        enumerate_up_to: frames up to which all binary vectors are tried; time doubles with each.
    """

    name: ClassVar[str] = "first-layer"

    enumerate_up_to: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.enumerate_up_to <= 26:
            raise ConfigError(f"enumerate_up_to must lie in [0, 26]; got {self.enumerate_up_to}")

    def reconstruct(
        self,
        seen: Sequence[Observation],
        known: Sequence[Knowledge],
        *,
        rng: np.random.Generator,
        budget: Budget,
        progress: Progress,
        network_of: NetworkOf = build,
    ) -> list[Reconstruction]:
        """See `Attack`. Draws nothing; progress counts victims."""
        del rng, known
        gradients = [gradient_of(one) for one in seen]
        losses = np.full(len(seen), np.inf)
        answers = []
        for i, (one, gradient) in enumerate(zip(seen, gradients, strict=True)):
            started_ns = time.monotonic_ns()
            try:
                found = self._read(one, gradient, network_of(one.plan.model))
            except _CannotError as why:
                answers.append(refusal(one, attack=self.name, budget=budget, why=str(why)))
            else:
                duration_s = (time.monotonic_ns() - started_ns) * 1e-9
                answers.append(self._answer(one, gradient, found, duration_s=duration_s))
                losses[i] = found.residual
            progress(i + 1, len(seen), losses)
        return answers

    def _read(self, seen: Observation, gradient: TensorMap, network: Network) -> _Found:
        layer = _first_layer(network)
        slopes = gradient[f"{layer}.weight"].astype(np.float64)
        bias_slopes = gradient.get(f"{layer}.bias")
        if not slopes.any():
            raise _CannotError(f"every gradient in layer {layer!r} is zero: nothing leaks there")
        n_examples = batch_size_of(seen)
        if seen.plan.encoding.name == "direct":
            return _constant_input(seen, slopes, bias_slopes, n_examples=n_examples)
        _check_binary(seen)
        n_frames = n_examples * seen.plan.encoding.n_steps
        factors = factorise(
            slopes,
            bias_slopes,
            n_frames=n_frames,
            codec=seen.plan.codec.name,
            enumerate_up_to=self.enumerate_up_to,
        )
        if factors is None:
            raise _CannotError(
                f"no binary frames were found behind the gradient of layer {layer!r}, which can "
                f"hold up to {n_frames}; enumeration stops at {self.enumerate_up_to}, and too few "
                "columns differ by one frame"
            )
        ordering = None
        known_layer = _known_layer(seen, network, layer)
        if known_layer is not None and len(factors.frames) == n_frames:
            evidence = _evidence(seen, network, gradient, layer, known_layer)
            factors, ordering = _in_order(
                factors, slopes, known_layer, evidence, n_examples=n_examples
            )
        n_heard = seen.plan.encoding.n_steps - network.n_unheard
        found = _binary_input(seen, factors, ordering, n_examples=n_examples, n_heard=n_heard)
        is_ambiguous = ordering is None and factors.is_ambiguous(slopes)
        certificate = {**found.certificate, "ambiguous": float(is_ambiguous)}
        return replace(found, certificate=certificate)

    def _answer(
        self, seen: Observation, gradient: TensorMap, found: _Found, *, duration_s: float
    ) -> Reconstruction:
        loss = np.array([found.residual], dtype=np.float32)
        labels = _labels(gradient, n_examples=len(found.candidate))
        return Reconstruction(
            ticket=seen.ticket,
            sha256=seen.sha256,
            attack=self.name,
            candidates=found.candidate[np.newaxis].astype(np.float32),
            labels=labels[np.newaxis],
            losses=loss,
            loss_curves=loss[:, np.newaxis],
            n_iterations=0,
            duration_s=duration_s,
            labels_from="" if NO_LABEL in labels else "rule",
            trains=None if found.train is None else found.train[np.newaxis],
            certificate=found.certificate,
        )


def _first_layer(network: Network) -> str:
    """Name of the layer that receives the input."""
    for name, layer in network.named_children():
        if isinstance(layer, nn.Linear):
            return name
        if not isinstance(layer, nn.Flatten):
            raise _CannotError(
                f"layer {name!r} comes first and is not fully connected ({type(layer).__name__}); "
                "this attack reads the input of a fully connected layer"
            )
    raise _CannotError("the network has no layer")


def _check_binary(seen: Observation) -> None:
    spec = seen.plan.encoding
    if not encoding_of(spec).is_binary:
        raise _CannotError(
            f"encoding {spec.name!r} with these options sends more than 0 and 1, and frames are "
            "only recovered where they are binary"
        )


def _constant_input(
    seen: Observation, slopes: np.ndarray, bias_slopes: np.ndarray | None, *, n_examples: int
) -> _Found:
    """One example whose input is the same at every step."""
    if n_examples > 1:
        raise _CannotError(
            f"the layer's gradient mixes {n_examples} examples with real inputs, which "
            "infinitely many batches explain equally well; this attack reads one, or binary trains"
        )
    if bias_slopes is None:
        left, singular, right = np.linalg.svd(slopes, full_matrices=False)
        image = right[0] * np.sign(right[0].sum())
        factor = np.sign(right[0].sum()) * left[:, 0] * singular[0]
        image, factor = image / image.max(), factor * image.max()
    elif bias_slopes.any():
        factor = bias_slopes.astype(np.float64)
        image = factor @ slopes / (factor @ factor)
    else:
        raise _CannotError("the gradient in the bias is zero, so that its ratio says nothing")
    length = np.linalg.norm(slopes)
    residual = float(np.linalg.norm(slopes - np.outer(factor, image)) / length)
    certificate = {"rank": 1.0, "n_frames": 1.0, "residual": residual, "method": 0.0}
    if bias_slopes is None:
        certificate["scale_known"] = 0.0
    return _Found(
        candidate=image.clip(0, 1).reshape(1, *seen.plan.model.input_shape),
        residual=residual,
        certificate=certificate,
    )


def _in_order(
    factors: Factorisation,
    slopes: np.ndarray,
    layer: KnownLayer,
    evidence: Evidence | None,
    *,
    n_examples: int,
) -> tuple[Factorisation, Ordering | None]:
    """The first of all consistent factorisations whose frames obey the layer's equations.

    Where none does, noise may hide the true frames of one example from all but these equations.
    """
    orderings = []
    for some in islice(factors.alternatives(slopes), _MAX_ALTERNATIVES):
        ordering = in_order(some.frames, some.atoms, layer=layer, n_examples=n_examples)
        if ordering.misfit <= _ORDERED:
            return some, ordering
        orderings.append(ordering)
    guess = factors.frames[orderings[0].frames[0]]
    fit, is_told = None, False
    if n_examples == 1 and len(guess) <= MAX_FRAMES:
        fit = obeying(guess, slopes, layer=layer)
        is_told = evidence.explained_by(fit) if evidence else fit.residual <= factors.noise
    if evidence is not None and not is_told:
        inferred = likeliest(guess, evidence)
        is_told = evidence.explained_by(inferred)
        if fit is None or is_told or inferred.residual < fit.residual:
            fit = inferred
    if fit is None:
        return factors, None
    found = factors.with_frames(fit.frames, fit.atoms, residual=fit.residual)
    in_time = np.arange(len(guess))[np.newaxis]
    return found, Ordering(frames=in_time, misfit=0.0) if is_told else None


def _binary_input(
    seen: Observation,
    factors: Factorisation,
    ordering: Ordering | None,
    *,
    n_examples: int,
    n_heard: int,
) -> _Found:
    """Frames as a train, and the raw input that it tells of; only `n_heard` steps leave a trace."""
    n_steps, shape = seen.plan.encoding.n_steps, seen.plan.model.input_shape
    train = np.zeros((n_examples, n_steps, factors.frames.shape[1]))
    if ordering is not None:
        train[:] = factors.frames[ordering.frames]
    else:
        train.reshape(-1, train.shape[-1])[: len(factors.frames)] = factors.frames
    spikes = to_tensor(train.astype(np.float32)).movedim(1, 0)
    spikes = spikes.reshape(n_steps, n_examples, *shape)
    return _Found(
        candidate=_raw_input(seen, spikes, n_examples=n_examples, n_heard=n_heard),
        residual=factors.residual,
        certificate={
            "rank": float(factors.rank),
            "n_frames": float(len(factors.frames)),
            "residual": factors.residual,
            "noise": factors.noise,
            "method": _METHOD_NUMBERS[factors.method],
            "consistent": float(factors.fits),
            "ordered": float(ordering is not None),
        },
        train=to_array(spikes).astype(np.uint8),
    )


def _raw_input(
    seen: Observation, spikes: torch.Tensor, *, n_examples: int, n_heard: int
) -> np.ndarray:
    spec = seen.plan.encoding
    if spec.name == "rate":
        encoding: Any = encoding_of(spec)
        return to_array((spikes.sum(0) / (n_heard * encoding.max_rate)).clamp(0, 1))
    view = input_view(spec, input_shape=seen.plan.model.input_shape, batch_size=n_examples)
    return to_array(view.to_raw(spikes))


def _known_layer(seen: Observation, network: Network, first: str) -> KnownLayer | None:
    """The first layer, where the order of its frames can be told from it."""
    neuron, weights = network.spec.neuron, seen.weights
    layers = dict(network.named_children())
    names = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    is_lif = isinstance(layers.get(f"{first}_neurons"), Spiking) and neuron.name == "lif"
    is_normalised = f"{first}_norm" in layers
    if is_normalised or not (is_lif and neuron.detach_reset and len(names) > 1):
        return None
    following = weights[f"{names[1]}.weight"].astype(np.float64)
    if 2 * following.shape[0] > following.shape[1]:  # too many directions to tell frames apart
        return None
    bias = weights.get(f"{first}.bias", np.zeros(following.shape[1]))
    return KnownLayer(
        weight=weights[f"{first}.weight"].astype(np.float64),
        bias=bias.astype(np.float64),
        following=following,
        neuron=neuron,
    )


def _evidence(
    seen: Observation, network: Network, gradient: TensorMap, first: str, layer: KnownLayer
) -> Evidence | None:
    """What foretells the slopes of one example's frames; None where the readout does not tell."""
    n_steps = seen.plan.encoding.n_steps
    counts = step_weights(network.spec, n_steps=n_steps)
    linear = [name for name, one in network.named_children() if isinstance(one, nn.Linear)]
    is_simple = linear == [first, READOUT] and batch_size_of(seen) == 1 and n_steps <= MAX_STEPS
    if counts is None or not is_simple or f"{READOUT}.bias" not in gradient:
        return None
    slopes = gradient[f"{first}.weight"].astype(np.float64)
    weights = to_array(counts)
    return Evidence(
        slopes=slopes,
        error=largest_error(slopes, codec=seen.plan.codec.name),
        layer=layer,
        counts=weights,
        sent_back=gradient[f"{READOUT}.bias"].astype(np.float64) / weights.sum(),
    )


def _labels(gradient: TensorMap, *, n_examples: int) -> np.ndarray:
    """By iDLG's rule, int64 [example]; -1 where it does not say."""
    if n_examples == 1:
        try:
            return np.array([label_candidates(gradient)[0]], dtype=np.int64)
        except AttackError:
            pass
    return np.full(n_examples, NO_LABEL, dtype=np.int64)
