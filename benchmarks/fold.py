"""Folding updates from files with one of our strategies, in a process of its own.

Prints one line of JSON: the median duration, and the growth of peak memory in models of float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from aggregator.strategies.base import RoundUpdates, StoredUpdate, strategy_of
from benchmarks.processes import median_duration_s, peak_bytes, reset_peak
from fedcore.plan import Choice
from fedcore.tensors import schema_of
from fedcore.types import Update
from fedcore.update_blob import pack_update, unpack_update

__all__ = ["fold"]

_CODEC = Choice(name="f32")
_PLAN_DIGEST = "0" * 64


def fold(folder: Path, strategy_name: str, *, n_updates: int, n_values: int) -> dict[str, float]:
    """Make updates, fold them, and say what the folding took."""
    rng = np.random.default_rng(0)
    tensors = {"weight": np.zeros(n_values, np.float32)}
    schema = schema_of(tensors)

    def load(path: Path) -> Update:
        return unpack_update(
            path.read_bytes(), schema=schema, plan_digest=_PLAN_DIGEST, codec=_CODEC
        )

    stored = []
    for i in range(n_updates):
        rng.standard_normal(out=tensors["weight"], dtype=np.float32)
        update = Update(kind="delta", tensors=tensors, n_examples=i + 1, plan_digest=_PLAN_DIGEST)
        path = folder / str(i)
        path.write_bytes(pack_update(update, codec=_CODEC))
        stored.append(StoredUpdate(client_id=str(i), n_examples=i + 1, load=partial(load, path)))
    del update
    updates = RoundUpdates(stored, schema=schema, scratch=folder)
    strategy = strategy_of(Choice(name=strategy_name))
    before_bytes = reset_peak()
    duration_s = median_duration_s(lambda: strategy.fold(updates))
    grown_bytes = peak_bytes() - before_bytes
    return {"ms": 1e3 * duration_s, "models": grown_bytes / (4 * n_values)}


def main() -> None:
    """Fold; print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("strategy")
    parser.add_argument("--n-updates", type=int, required=True)
    parser.add_argument("--n-values", type=int, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fold(Path(folder), args.strategy, n_updates=args.n_updates, n_values=args.n_values)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
