"""The pairs that L-BFGS keeps of many rows, and the directions that they point to."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["History", "dot"]


class History:
    """Each row's latest steps s and gradient changes y, and the products that directions need.

    A direction is read off products: what is long is gone through twice per step and no more.
    """

    def __init__(self, like: Tensor, *, memory: int) -> None:
        n_rows, n_variables = like.shape
        self._memory = memory
        self._pairs = like.new_zeros((n_rows, memory, 2, n_variables))  # s and y
        self._sy = like.new_zeros((n_rows, memory, memory), dtype=torch.float64)
        self._yy = torch.zeros_like(self._sy)
        self._with_slope = like.new_zeros((n_rows, memory, 2))
        self._scale = like.new_ones(n_rows)
        self._n_pairs = torch.zeros(n_rows, dtype=torch.int64, device=like.device)
        self._ordinal = self._n_pairs[:, None].repeat(1, memory) - 1  # of each pair; -1: no pair

    @property
    def is_empty(self) -> Tensor:
        """Rows without a pair."""
        return self._n_pairs == 0

    def push(self, rows: Tensor, s: Tensor, y: Tensor, *, slope: Tensor) -> None:
        """Keep these rows' pairs, the oldest making room; a pair without curvature is dropped.

        Args:
            rows: that made a step.
            s: their steps, [row, variable].
            y: what these changed in the gradient.
            slope: all rows' gradients by now.
        """
        if not bool(rows.any()):
            return
        sy, yy = dot(s, y), dot(y, y)
        good = (rows & (sy > 1e-10 * yy)).nonzero().squeeze(1)
        place = self._n_pairs[good] % self._memory
        self._pairs[good, place] = torch.stack([s, y], dim=1)[good]
        self._ordinal[good, place] = self._n_pairs[good]
        self._scale[good] = sy[good] / yy[good]
        self._n_pairs[good] += 1

        n_used = self._n_used
        vectors = torch.stack([slope, y], dim=1)  # each in one piece: that is three times faster
        products = torch.bmm(self._pairs[:, :n_used].flatten(1, 2), vectors.mT)
        products = products.reshape(-1, n_used, 2, 2)  # [row, pair, s or y, slope or y]
        self._with_slope[:, :n_used] = products[..., 0]
        with_y = products[good, ..., 1].double()
        self._sy[good, :n_used, place] = with_y[..., 0]
        self._yy[good, :n_used, place] = self._yy[good, place, :n_used] = with_y[..., 1]
        self._sy[good, place, place] = sy[good].double()  # positive, however the other was rounded

    def forget(self, rows: Tensor) -> None:
        """Empty these rows."""
        self._ordinal[rows] = -1
        self._scale[rows] = 1
        self._n_pairs[rows] = 0

    def direction(self, slope: Tensor) -> Tensor:
        """Minus the approximate inverse Hessian times the gradient last pushed, [row, variable].

        With S and Y the pairs in order of time, R the upper triangle of S'Y and D its diagonal,
        H g = c g + S R^-T ((D + c Y'Y) u - c Y'g) - c Y u, where u = R^-1 S'g and c the scale.
        """
        n_used = self._n_used
        ordinal, order = self._ordinal[:, :n_used].sort(dim=1)
        is_pair = (ordinal >= 0).double()

        def in_time(products: Tensor) -> Tensor:
            lines = products[:, :n_used, :n_used].gather(1, order[..., None].expand(-1, -1, n_used))
            square = lines.gather(2, order[:, None].expand(-1, n_used, -1))
            return square * is_pair[..., None] * is_pair[:, None]

        place = order[..., None].expand(-1, -1, 2)
        with_slope = self._with_slope.double().gather(1, place) * is_pair[..., None]
        scale = self._scale.double()[:, None, None]
        sy = in_time(self._sy)
        r = sy.triu() + torch.diag_embed(1 - is_pair)
        u = torch.linalg.solve_triangular(r, with_slope[..., :1], upper=True)
        d_u = sy.diagonal(dim1=1, dim2=2)[..., None] * u
        inner = d_u + scale * (in_time(self._yy) @ u - with_slope[..., 1:])
        a = torch.linalg.solve_triangular(r.mT, inner, upper=False)
        parts = torch.cat([a, -scale * u], dim=2)  # of s and y, in time
        by_place = torch.zeros_like(parts).scatter(1, place, parts).to(slope.dtype)
        pairs = self._pairs[:, :n_used].flatten(1, 2)
        step = torch.bmm(by_place.flatten(1)[:, None], pairs).squeeze(1)
        return -(self._scale[:, None] * slope + step)

    @property
    def _n_used(self) -> int:
        """Places that hold a pair of any row."""
        return min(self._memory, int(self._n_pairs.max()))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Of each row."""
    return (a * b).sum(1)
