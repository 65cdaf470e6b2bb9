"""Minimise many independent objectives at once: row i of every tensor is one start of one victim.

An optimiser asks `evaluate` for the losses and gradients of all rows in one call. No row waits for
another's line search, and no row's numbers depend on another's. What is kept of a row is the lowest
loss that was measured, with the very candidate that had it. A search ends early when no row has got
any further for `patience` evaluations.
"""

from __future__ import annotations

from attacker.optimisers.adam import adam, signed_adam
from attacker.optimisers.flips import flip_spikes
from attacker.optimisers.lbfgs import lbfgs
from attacker.optimisers.record import Evaluate, Minimum, OnEvaluation

__all__ = ["Evaluate", "Minimum", "OnEvaluation", "adam", "flip_spikes", "lbfgs", "signed_adam"]
