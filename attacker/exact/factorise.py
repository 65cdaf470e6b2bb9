"""A gradient as slopes times binary frames, with what can be said for it without the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import Literal, get_args

import numpy as np

from attacker.exact.differences import by_differences
from attacker.exact.enumeration import by_enumeration
from attacker.exact.refinement import refined
from attacker.exact.subspace import Subspace, n_frames_above, noise_std, project

__all__ = ["Factorisation", "Method", "factorise"]

Method = Literal["enumeration", "differences"]

_METHODS: tuple[Method, ...] = get_args(Method)
_N_REPLACED = 2
_MAX_RIVALS = 300
_HIDES_FRAMES = ("int8",)  # its noise is above the weakest frames, whose number is then unknown
_FITS = 2.0  # a residual of up to so many times the noise's is explained by noise


@dataclass(frozen=True, kw_only=True)
class Factorisation:
    """A consistent factorisation. It is no proof: sparse frames can have several.

    Attributes:
        frames: binary, float64 [frame, feature].
        others: vectors of the same space that are as binary and may be frames too,
            [vector, feature].
        atoms: slope of the loss in the currents of each frame, [neuron, frame].
        residual: |gradient - atoms frames| / |gradient|.
        noise: what rounding alone makes of the residual.
        rank: singular values that stand out of the noise.
        method: that found it.
    """

    frames: np.ndarray
    others: np.ndarray
    atoms: np.ndarray
    residual: float
    noise: float
    rank: int
    method: Method

    @property
    def fits(self) -> bool:
        """Whether noise explains what is left."""
        return self.residual <= _FITS * self.noise

    def alternatives(self, slopes: np.ndarray) -> Iterator[Factorisation]:
        """Itself, and what it is with some of its frames replaced by others.

        Args:
            slopes: that it explains, [neuron, feature].
        """
        yield self
        for n_replaced in range(1, _N_REPLACED + 1):
            yield from self._with_replaced(n_replaced, slopes)

    def with_frames(
        self, frames: np.ndarray, atoms: np.ndarray, *, residual: float
    ) -> Factorisation:
        """The same with these frames; frames of its own that are not among them become others."""
        rivals = [one for one in self.frames if not (frames == one).all(axis=1).any()]
        others = np.vstack([*rivals, self.others])
        return replace(self, frames=frames, atoms=atoms, residual=residual, others=others)

    def is_ambiguous(self, slopes: np.ndarray) -> bool:
        """Whether another one, with one frame replaced, is explained by noise as well.

        Args:
            slopes: that it explains, [neuron, feature].
        """
        rivals = islice(self._with_replaced(1, slopes), _MAX_RIVALS)
        return any(rival.fits for rival in rivals)

    def _with_replaced(self, n: int, slopes: np.ndarray) -> Iterator[Factorisation]:
        """All that share all but `n` frames with it and whose frames are independent."""
        vectors = np.vstack([self.frames, self.others])
        n_frames, n_others = len(self.frames), len(self.others)
        for taken in combinations(range(n_frames, n_frames + n_others), n):
            for left_out in combinations(range(n_frames), n):
                frames = vectors[[i for i in range(n_frames) if i not in left_out] + [*taken]]
                atoms, _, rank, _ = np.linalg.lstsq(frames.T, slopes.T, rcond=None)
                if rank == n_frames:
                    residual = _left_over(slopes, atoms.T, frames)
                    yield replace(self, frames=frames, atoms=atoms.T, residual=residual)


def factorise(
    slopes: np.ndarray,
    bias_slopes: np.ndarray | None,
    *,
    n_frames: int,
    codec: str,
    enumerate_up_to: int,
) -> Factorisation | None:
    """Find binary frames behind the gradient of a fully connected layer.

    Frames without any spike leave no trace, and two equal ones look like one. So the number of
    frames is first read from the rank, and where noise hides some of it, all are looked for.

    Args:
        slopes: in the weight, [neuron, feature], not all zero.
        bias_slopes: in the bias, [neuron]; None for a layer without.
        n_frames: most frames that can be behind it.
        codec: of the update, which tells the noise.
        enumerate_up_to: frames for which all binary vectors are tried.

    Returns:
        The factorisation with the smallest residual; None where no method found enough frames.
    """
    slopes = slopes.astype(np.float64)
    noise = noise_std(slopes, codec=codec)
    singular = np.linalg.svd(slopes, compute_uv=False)
    most = min(n_frames, *slopes.shape)
    rank = n_frames_above(singular, shape=slopes.shape, noise=noise)
    found: list[Factorisation] = []
    for n in dict.fromkeys((min(max(rank, 1), most), most)):
        space = project(slopes, bias_slopes, rank=n, noise=noise)
        if space.columns.shape[1] < n:
            continue
        for method in _METHODS:
            frames = _frames_by(method, space, enumerate_up_to=enumerate_up_to)
            if len(frames) < n:
                continue
            frames = refined(frames, space)
            vectors = np.zeros((len(frames), slopes.shape[1]))
            vectors[:, space.active] = frames[:, space.which]
            found.append(
                _measured(slopes, vectors, n_frames=n, noise=noise, rank=rank, method=method)
            )
            if found[-1].fits and (n == most or codec not in _HIDES_FRAMES):
                return found[-1]
    return min(found, key=lambda one: one.residual, default=None)


def _frames_by(method: Method, space: Subspace, *, enumerate_up_to: int) -> np.ndarray:
    if method == "differences":
        return by_differences(space)
    if space.rank > enumerate_up_to:
        return np.zeros((0, space.columns.shape[1]))
    return by_enumeration(space)


def _measured(
    slopes: np.ndarray,
    vectors: np.ndarray,
    *,
    n_frames: int,
    noise: float,
    rank: int,
    method: Method,
) -> Factorisation:
    frames = vectors[:n_frames]
    atoms = np.linalg.lstsq(frames.T, slopes.T, rcond=None)[0].T
    return Factorisation(
        frames=frames,
        others=vectors[n_frames:],
        atoms=atoms,
        residual=_left_over(slopes, atoms, frames),
        noise=noise * float(np.sqrt(slopes.size) / np.linalg.norm(slopes)),
        rank=rank,
        method=method,
    )


def _left_over(slopes: np.ndarray, atoms: np.ndarray, frames: np.ndarray) -> float:
    """|slopes - atoms frames| / |slopes|."""
    return float(np.linalg.norm(slopes - atoms @ frames) / np.linalg.norm(slopes))
