"""The hardware module beside its peers: totals, faults, accuracy, operations.

    python -m benchmarks.hardware [boards] [faults] [traces] [outside] [operations]
                                  [--neurobench-python VENV/bin/python]

Without names it prints all of them. Sensors are faked kernel trees, replayed traces and sockets in
the shape of real captures; the samplers are real processes. Each table's module says how.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.joules.operations import beside_neurobench

__all__ = ["main"]

PARTS = ("boards", "faults", "traces", "outside", "operations")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--neurobench-python", type=Path, help="beside whose counts ours stand")
    args = parser.parse_args()
    if unknown := sorted({*args.parts} - {*PARTS}):
        parser.error(f"no table {', '.join(unknown)}; expected {', '.join(PARTS)}")
    for part in args.parts or PARTS:
        print(f"== {part}")
        for row in importlib.import_module(f"benchmarks.joules.{part}").rows():
            print(row, flush=True)
    if args.neurobench_python:
        print("== beside NeuroBench")
        for row in beside_neurobench(args.neurobench_python):
            print(row)


if __name__ == "__main__":
    main()
