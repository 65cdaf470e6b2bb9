"""Where a defence's noise comes from: a seeded stream, or the operating system's generator."""

from __future__ import annotations

import os
from math import prod
from typing import Protocol

import numpy as np

__all__ = ["NoiseSource", "SystemNoise"]


class NoiseSource(Protocol):
    """What a defence draws from. A numpy Generator is one: in reproducible runs, the client's."""

    def standard_normal(self, size: tuple[int, ...]) -> np.ndarray:
        """Independent draws from N(0, 1), float64, of that shape."""
        ...

    def random(self, size: tuple[int, ...]) -> np.ndarray:
        """Independent uniform draws from [0, 1), float64, of that shape."""
        ...


class SystemNoise:
    """Noise from the operating system's cryptographic generator (`os.urandom`).

    For runs that protect real data: numpy's generators are fast, but whoever learns some of their
    output can compute the rest (PCG64 is not a cryptographic generator), and with it remove the
    noise. Nothing is seeded or kept here, so that nothing can be recomputed.

    The draws are float64 and the sum is rounded to float32; this is no proof against an attack on
    the last bits of floating-point noise (Mironov 2012, doi:10.1145/2382196.2382264).
    """

    def standard_normal(self, size: tuple[int, ...]) -> np.ndarray:
        """Independent draws from N(0, 1), float64, of that shape (Box and Muller 1958, Eq. 1).

        Uniform numbers have 53 random bits, so that no draw exceeds sqrt(106 ln 2) = 8.57.
        """
        n_pairs = (prod(size) + 1) // 2
        uniform = _uniform(2 * n_pairs)
        radius = np.sqrt(-2.0 * np.log1p(-uniform[:n_pairs]))  # 1 - u lies in (0, 1]
        angle = 2.0 * np.pi * uniform[n_pairs:]
        halves = (radius * np.cos(angle), radius * np.sin(angle))
        normal: np.ndarray = np.concatenate(halves)[: prod(size)].reshape(size)
        return normal

    def random(self, size: tuple[int, ...]) -> np.ndarray:
        """Independent draws, uniform on the multiples of 2^-53 in [0, 1), of that shape."""
        return _uniform(prod(size)).reshape(size)


def _uniform(n: int) -> np.ndarray:
    """Float64 [n], uniform on the multiples of 2^-53 in [0, 1)."""
    words = np.frombuffer(os.urandom(8 * n), dtype=np.uint64)
    uniform: np.ndarray = (words >> np.uint64(11)) * 2.0**-53
    return uniform
