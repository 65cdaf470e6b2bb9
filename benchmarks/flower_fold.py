"""Flower's own weighted mean, run by a Python that has Flower; the counterpart of `fold`.

Prints one line of JSON: the median duration, the peak memory in models of float32 (the replies that
Flower holds while it folds, and what grows on top), and the version.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from benchmarks.processes import median_duration_s, peak_bytes, reset_peak

__all__ = ["fold"]


def fold(*, n_updates: int, n_values: int) -> dict[str, float]:
    """Make replies as they lie in Flower's ServerApp, fold them, and say what it took."""
    rng = np.random.default_rng(0)
    before_bytes = reset_peak()
    replies = [
        RecordDict(
            {
                "arrays": ArrayRecord([rng.standard_normal(n_values, dtype=np.float32)]),
                "metrics": MetricRecord({"num-examples": i + 1}),
            }
        )
        for i in range(n_updates)
    ]
    held_bytes = reset_peak() - before_bytes
    duration_s = median_duration_s(lambda: aggregate_arrayrecords(replies, "num-examples"))
    model_bytes = 4 * n_values
    return {
        "ms": 1e3 * duration_s,
        "models": (peak_bytes() - before_bytes) / model_bytes,
        "held_models": held_bytes / model_bytes,
    }


def main() -> None:
    """Fold; print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n-updates", type=int, required=True)
    parser.add_argument("--n-values", type=int, required=True)
    args = parser.parse_args()
    found = fold(n_updates=args.n_updates, n_values=args.n_values)
    print(json.dumps({"version": version("flwr"), **found}))


if __name__ == "__main__":
    main()
