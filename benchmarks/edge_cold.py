"""A board's first training step, in a process of its own and without torch.

    python -m benchmarks.edge_cold FOLDER

FOLDER holds plan.json, weights.npz, batch.npz and the plan's graphs under their digests.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edge_client.backends.onnx_backend import OnnxBackend
from fedcore.plan import RoundPlan
from fedcore.seeds import stream
from fedcore.strict import parse


def main() -> None:
    """Load and train once."""
    folder = Path(sys.argv[1])
    plan = parse(RoundPlan, json.loads((folder / "plan.json").read_bytes()), where="plan")
    backend = OnnxBackend(threads=1)
    with np.load(folder / "weights.npz") as weights, np.load(folder / "batch.npz") as batch:
        backend.load(plan, dict(weights), fetch=lambda digest: (folder / digest).read_bytes())
        backend.train([batch["inputs"]], [batch["labels"]], noise=stream(0))
    if "torch" in sys.modules:
        raise SystemExit("the client has imported torch")


if __name__ == "__main__":
    main()
