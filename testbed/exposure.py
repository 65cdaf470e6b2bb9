"""A leakage score without an attack: what an update could give away, whoever asks.

From the bytes alone: the rank of the first layer's gradient, the ratio certificate of the
readout, its zeros and its norm. With the truth, which only the judge has: the spectrum of the
update's Jacobian in the input, and the Cramer-Rao bound where a defence leaves something to chance.
In the spirit of InvLoss (arXiv 2512.15460), which scores the risk by the Jacobian's spectrum, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.errors import RunError
from fedcore.layout import RunFolder
from fedcore.nn.models import READOUT
from fedcore.strict import canonical_json, parse
from fedcore.types import Missing, Observation, TensorMap, Ticket

__all__ = [
    "PEELABLE",
    "Exposure",
    "Exposures",
    "exposure_file",
    "of_update",
    "ratio_residual",
    "read_exposures",
    "write_exposures",
]

PEELABLE = 1e-3
"""Largest ratio residual at which the readout shows its features; float16's rounding is below."""

_NO_TRUTH = Missing(why="only the update's bytes were looked at")


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One accepted update.

    Attributes:
        first_layer_rank: numerical rank of the first layer's gradient, a matrix of outputs.
        rank_limit: the most that its shape allows.
        n_frames: examples times steps; below the limit, a rank as small as this spans the inputs
            of a fully connected first layer. Missing for a convolution, which sums over positions.
        ratio_residual: how far the readout's gradient is from bias gradient times one feature
            vector, relative; near 0 the vector can be read off (always so for one example).
        is_peelable: whether it is at most `PEELABLE`.
        zero_share: of the update's values.
        norm: of the update.
        jacobian_of: "raw" or "encoded" input.
        is_surrogate: whether the Jacobian is a spiking network's, through its surrogate.
        n_inputs: input values of the batch.
        n_directions: those that the Jacobian was taken in.
        effective_rank: of the Jacobian there, 1 to `n_directions`.
        largest: singular value; likewise `median` and `smallest`.
        bound_factor: Cramer-Rao bound on the mean squared error per unit of noise variance.
        drawn_by: the defences whose chance the bound is about, or "gaussian" that was asked for.
        sigma: of the noise that they add; see `testbed.mechanism.Mechanism`.
        information: trace of the Fisher information on the directions, behind these defences.
        crb_mse: bound on the mean squared error of any unbiased reconstruction behind them.
        crb_mse_best: the same of the value that is known best.
        duration_s: that this score took.
    """

    ticket: Ticket
    first_layer_rank: int
    rank_limit: int
    n_frames: int | Missing
    ratio_residual: float | Missing
    is_peelable: bool | Missing
    zero_share: float
    norm: float
    is_surrogate: bool
    jacobian_of: str | Missing = _NO_TRUTH
    n_inputs: int | Missing = _NO_TRUTH
    n_directions: int | Missing = _NO_TRUTH
    effective_rank: float | Missing = _NO_TRUTH
    largest: float | Missing = _NO_TRUTH
    median: float | Missing = _NO_TRUTH
    smallest: float | Missing = _NO_TRUTH
    bound_factor: float | Missing = _NO_TRUTH
    drawn_by: str | Missing = _NO_TRUTH
    sigma: float | Missing = _NO_TRUTH
    information: float | Missing = _NO_TRUTH
    crb_mse: float | Missing = _NO_TRUTH
    crb_mse_best: float | Missing = _NO_TRUTH
    duration_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Exposures:
    """The content of one arm's exposure file."""

    run_id: str
    arm: str
    rows: tuple[Exposure, ...]


def of_update(seen: Observation) -> Exposure:
    """What the bytes alone say."""
    first = next(tensor for tensor in seen.tensors.values() if tensor.ndim > 1)
    matrix = first.reshape(len(first), -1)
    residual = ratio_residual(seen.tensors)
    flat = np.concatenate([t.ravel() for t in seen.tensors.values()]).astype(np.float64)
    return Exposure(
        ticket=seen.ticket,
        first_layer_rank=int(np.linalg.matrix_rank(matrix)),
        rank_limit=min(matrix.shape),
        n_frames=seen.n_examples * seen.plan.encoding.n_steps
        if first.ndim == 2
        else Missing(why="the first layer is a convolution, which sums over positions"),
        ratio_residual=residual,
        is_peelable=residual if isinstance(residual, Missing) else residual <= PEELABLE,
        zero_share=float(np.mean(flat == 0)),
        norm=float(np.linalg.norm(flat)),
        is_surrogate=seen.plan.model.spiking,
    )


def ratio_residual(tensors: TensorMap) -> float | Missing:
    """Distance of the readout's gradient from a bias gradient times one feature vector, relative.

    With gradients W [class, feature] and b [class], the nearest such product has the features
    b^T W / |b|^2. For one example, or examples with equal features, W is that product.
    """
    weight, bias = (tensors.get(f"{READOUT}.{kind}") for kind in ("weight", "bias"))
    if weight is None or bias is None:
        return Missing(why="the readout has no bias, so there is no ratio")
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    if not (weight.any() and bias.any()):
        return Missing(why="the readout's gradient is zero")
    features = bias @ weight / (bias @ bias)
    rest = weight - np.outer(bias, features)
    return float(np.linalg.norm(rest) / np.linalg.norm(weight))


def exposure_file(run: RunFolder, run_id: str) -> Path:
    """Beside the judge's scores."""
    return run.scores_file(run_id).with_suffix(".exposure.json")


def read_exposures(run: RunFolder, run_id: str) -> tuple[Exposure, ...]:
    """The rows of one arm; none where `leakwatt exposure` has not been here.

    Raises:
        RunError: there is a file, but not one of exposures.
        ConfigError: it was written by another version.
    """
    path = exposure_file(run, run_id)
    if not path.exists():
        return ()
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: no exposures ({error}); run `leakwatt exposure` again") from error
    return parse(Exposures, table, where=path.name).rows


def write_exposures(exposures: Exposures, run: RunFolder) -> None:
    """Write one arm's file, whole or not at all."""
    path = exposure_file(run, exposures.run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_bytes(canonical_json(exposures) + b"\n")
    beside.replace(path)
